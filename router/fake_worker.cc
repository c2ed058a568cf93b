#include "router/fake_worker.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace braid {

FakeWorker::FakeWorker(const std::string& name, uint64_t kv_blocks) {
  hello_.set_name(name);
  hello_.set_model_digest("fake");
  hello_.set_kv_blocks(kv_blocks);
  hello_.set_kv_block_tokens(16);
  hello_.set_sequences_max(64);
  hello_.set_step_tokens_max(128);
  hello_.set_kv_type("bf16");
  hello_.set_arithmetic("fake");
  hello_.set_exchange("inprocess");
  hello_.set_expert_count(4);
  hello_.set_moe_layers(1);
  hello_.set_expert_slots(4);
  hello_.set_context_tokens_max(4096);
  hello_.set_vocab_size(kVocab);
  hello_.set_snapshots_max(8);
}

std::vector<TokenId> FakeWorker::Answer(const std::vector<TokenId>& prompt, uint64_t seed, int tokens) {
  std::vector<TokenId> log = prompt;
  for (int i = 0; i < tokens; ++i) log.push_back(Next(log, static_cast<int>(prompt.size()), seed));
  return {log.begin() + static_cast<std::ptrdiff_t>(prompt.size()), log.end()};
}

v1::AttachRequest FakeWorker::SayHello() const {
  v1::AttachRequest message;
  *message.mutable_hello() = hello_;
  return message;
}

std::optional<v1::AttachRequest> FakeWorker::On(const v1::AttachResponse& message) {
  v1::AttachRequest answer;
  switch (message.message_case()) {
    case v1::AttachResponse::kPrepare:
      if (message.prepare().epoch() <= std::max(epoch_, next_epoch_)) Complain("the epoch did not rise");
      next_epoch_ = message.prepare().epoch();
      answer.mutable_prepared()->set_epoch(next_epoch_);
      answer.mutable_prepared()->set_address(hello_.name());
      return answer;
    case v1::AttachResponse::kConfigure:
      if (message.configure().epoch() != next_epoch_) return std::nullopt;
      if (message.configure().placement_size() != static_cast<int>(hello_.moe_layers())) {
        Complain("the placement has another number of layers");
      }
      answer.mutable_configured()->set_epoch(next_epoch_);
      return answer;
    case v1::AttachResponse::kBegin:
      if (message.begin().epoch() != next_epoch_) return std::nullopt;
      *answer.mutable_begun() = Begin(message.begin());
      return answer;
    case v1::AttachResponse::kStop:
      if (message.stop().epoch() == epoch_) stopped_ = true;
      return std::nullopt;
    case v1::AttachResponse::kStepPlan:
      if (message.step_plan().epoch() != epoch_ || stopped_) return std::nullopt;
      return Run(message.step_plan());
    case v1::AttachResponse::kHeartbeat:
      answer.mutable_heartbeat()->set_epoch(epoch_);
      return answer;
    case v1::AttachResponse::kWelcome:
    case v1::AttachResponse::MESSAGE_NOT_SET:
      return std::nullopt;
  }
  return std::nullopt;
}

v1::Begun FakeWorker::Begin(const v1::Begin& begin) {
  epoch_ = std::exchange(next_epoch_, 0);
  step_ = 0;
  stopped_ = false;
  v1::Begun begun;
  begun.set_epoch(epoch_);
  std::map<uint64_t, Sequence> before = std::exchange(sequences_, {});
  for (const v1::SequenceKept& kept : begin.keep()) {
    auto found = before.find(kept.sequence());
    if (found == before.end() || found->second.tokens.size() < kept.length()) {
      Complain("asked to keep what is not here");
      begun.add_missing(kept.sequence());
      continue;
    }
    found->second.tokens.resize(kept.length());
    sequences_.insert(std::move(*found));
  }
  std::map<uint64_t, Snapshot> snapshots = std::exchange(snapshots_, {});
  for (uint64_t id : begin.keep_snapshots()) {
    auto found = snapshots.find(id);
    if (found == snapshots.end()) {
      Complain("asked to keep a snapshot that is not here");
    } else {
      snapshots_.insert(std::move(*found));
    }
  }
  return begun;
}

TokenId FakeWorker::Next(std::span<const TokenId> tokens, int prompt_tokens, uint64_t seed) {
  uint64_t hash = 14695981039346656037u ^ seed;
  hash = (hash ^ static_cast<uint64_t>(prompt_tokens)) * 1099511628211u;
  for (TokenId token : tokens) hash = (hash ^ static_cast<uint64_t>(token)) * 1099511628211u;
  if (seed == kParrot && (hash >> 40) % 8 != 0) return tokens[tokens.size() - static_cast<size_t>(prompt_tokens)];
  return static_cast<TokenId>((hash >> 20) % kVocab);
}

v1::AttachRequest FakeWorker::Run(const v1::StepPlan& plan) {
  Apply(plan);
  v1::AttachRequest answer;
  v1::StepDone& done = *answer.mutable_step_done();
  done.set_epoch(epoch_);
  done.set_step(plan.step());
  done.set_step_us(1000);
  int rows = 0;
  for (const v1::SequenceChunk& chunk : plan.chunks()) {
    rows += chunk.follows() ? 1 : chunk.tokens_size();
    if (chunk.follows()) {
      Follow(chunk, done);
    } else {
      Extend(chunk, done);
    }
  }
  if (rows > static_cast<int>(hello_.step_tokens_max())) Complain("more rows than a step may have");
  if (rows > static_cast<int>(plan.rows_max())) Complain("more rows than rows_max");
  for (int e = 0; e < 4; ++e) done.add_expert_rows(static_cast<uint64_t>(rows * (e + 1)));
  return answer;
}

void FakeWorker::Apply(const v1::StepPlan& plan) {
  if (plan.step() != ++step_) Complain("steps do not follow each other");
  for (uint64_t id : plan.release()) sequences_.erase(id);
  for (uint64_t id : plan.drop_snapshots()) snapshots_.erase(id);
  for (const v1::SequenceStart& start : plan.start()) Start(start);
  if (blocks() > hello_.kv_blocks()) Complain("more KV blocks than there are");
  if (sequences_.size() > hello_.sequences_max()) Complain("more sequences than fit");
}

void FakeWorker::Start(const v1::SequenceStart& start) {
  Sequence sequence{start, {}, {}};
  if (start.resume() != 0) {
    const auto found = snapshots_.find(start.resume());
    if (found == snapshots_.end()) return Complain("asked to begin with a snapshot that is not here");
    sequence.tokens = found->second.tokens;
    sequence.blocks = found->second.blocks;
    if (start.want_prompt_logprobs()) Complain("asked to score a prompt that is not computed");
  }
  if (sequence.blocks.size() > start.kv_blocks()) Complain("fewer KV blocks than it begins with");
  while (sequence.blocks.size() < start.kv_blocks()) sequence.blocks.push_back(++last_block_);
  if (!sequences_.emplace(start.sequence(), std::move(sequence)).second) Complain("a sequence started twice");
}

uint64_t FakeWorker::blocks() const {
  std::set<uint64_t> held;
  for (const auto& [id, sequence] : sequences_) held.insert(sequence.blocks.begin(), sequence.blocks.end());
  for (const auto& [id, snapshot] : snapshots_) held.insert(snapshot.blocks.begin(), snapshot.blocks.end());
  return held.size();
}

void FakeWorker::Save(const v1::SequenceChunk& chunk, const Sequence& sequence) {
  for (const v1::SnapshotSave& save : chunk.saves()) {
    const uint32_t end = chunk.position() + static_cast<uint32_t>(chunk.tokens_size());
    if (save.position() <= chunk.position() || save.position() > end || save.position() % 16 != 0) {
      Complain("a snapshot at another place than the end of a block of the chunk");
      continue;
    }
    Snapshot snapshot;
    snapshot.tokens.assign(sequence.tokens.begin(), sequence.tokens.begin() + save.position());
    snapshot.blocks.assign(sequence.blocks.begin(), sequence.blocks.begin() + save.position() / 16);
    if (!snapshots_.emplace(save.snapshot(), std::move(snapshot)).second) Complain("a snapshot saved twice");
  }
  if (snapshots_.size() > hello_.snapshots_max()) Complain("more snapshots than fit");
}

void FakeWorker::Follow(v1::SequenceChunk chunk, v1::StepDone& done) {
  auto found = sequences_.find(chunk.sequence());
  if (found == sequences_.end()) return Complain("a chunk that follows nothing");
  const auto& [start, tokens, blocks] = found->second;
  if (!chunk.tokens().empty()) Complain("a chunk that follows, and says how");
  const TokenId token = Next(tokens, static_cast<int>(start.prompt_tokens()), start.sampling().seed());
  const auto& stops = start.stop_tokens();
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) return;
  chunk.add_tokens(token);
  Extend(chunk, done);
}

void FakeWorker::Extend(const v1::SequenceChunk& chunk, v1::StepDone& done) {
  auto found = sequences_.find(chunk.sequence());
  if (found == sequences_.end()) return Complain("a chunk for a sequence that never started");
  auto& [start, tokens, blocks] = found->second;
  if (chunk.position() != tokens.size()) Complain("a chunk that leaves a gap");
  if (start.want_prompt_logprobs() && chunk.position() < start.prompt_tokens()) {
    v1::PromptScores* scores = done.add_prompt_scores();
    scores->set_sequence(chunk.sequence());
    scores->set_position(std::max<uint32_t>(1, chunk.position()));
    for (uint32_t i = scores->position(); i < chunk.position() + chunk.tokens_size() && i < start.prompt_tokens();
         ++i) {
      scores->add_logprobs()->set_token(chunk.tokens(static_cast<int>(i - chunk.position())));
    }
  }
  if (chunk.position() + static_cast<size_t>(chunk.tokens_size()) >
      uint64_t{start.kv_blocks()} * hello_.kv_block_tokens()) {
    Complain("more tokens than reserved");
  }
  const auto drafts = chunk.tokens().end() - chunk.drafts();
  tokens.insert(tokens.end(), chunk.tokens().begin(), drafts);
  Save(chunk, found->second);
  if (!chunk.sample()) return;
  v1::Sampled* sampled = done.add_sampled();
  sampled->set_sequence(chunk.sequence());
  v1::TokenLogprob* next = sampled->mutable_token();
  for (auto draft = drafts;; ++draft) {
    next->set_token(Next(tokens, static_cast<int>(start.prompt_tokens()), start.sampling().seed()));
    if (start.want_logprobs()) next->set_logprob(-0.5f);
    if (draft == chunk.tokens().end() || *draft != next->token()) return;
    tokens.push_back(*draft);
    next = sampled->add_more();
  }
}

}  // namespace braid
