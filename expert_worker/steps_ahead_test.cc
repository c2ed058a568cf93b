#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>

#include "expert_worker/late_engine.h"
#include "expert_worker/step_runner.h"
#include "expert_worker/tiny_model.h"
#include "model/engine.h"

// A runner that starts steps behind others, and one that runs each when its turn comes, are told the same by a router
// that knows no more than the answers: they must answer alike to the last bit, whatever stops, fails or is taken back.

namespace braid {
namespace {

constexpr int kContext = 160, kBlocksPerSequence = kContext / kKvBlockTokens, kSequencesMax = 6;
constexpr int kStepTokens = 200;

// Runs experts until told to fail in a layer.
class FailingExperts : public ExpertRunner {
 public:
  explicit FailingExperts(LocalExperts* experts) : experts_(experts) {}
  void FailNext() { fails_ = true; }
  absl::Status Run(const RoutedBatch& batch) override {
    if (std::exchange(fails_, false)) return absl::UnavailableError("rank 1 is gone");
    return experts_->Run(batch);
  }

 private:
  LocalExperts* experts_;
  bool fails_ = false;
};

// A runner with all it needs.
struct Host {
  explicit Host(const TinyWorkerModel& model, bool late)
      : states(model.config(),
               {.blocks = kSequencesMax * kBlocksPerSequence + 8, .sequences = kSequencesMax, .snapshots = 4}),
        inner(MakeEngine(&model.config(), &model.tensors(), &states, &pool)),
        poisoned(inner.get(), 3),
        drawer(&poisoned, TinyWorkerModel::kNoToken),
        engine(late ? static_cast<Engine&>(drawer) : poisoned),
        local(model.config().experts, &inner->experts(), &pool),
        experts(&local),
        runner(
            &model.config(), &states, &pool,
            [this](auto chunks, ExpertRunner& with, auto* logits) { return engine.Run(chunks, with, logits); },
            {.step_tokens_max = kStepTokens, .masked = {TinyWorkerModel::kNoToken}},
            [this](int begin, int end, auto* logits) { return engine.Logits(begin, end, logits); },
            late ? &drawer : nullptr) {}

  ThreadPool pool{1};
  HostStates states;
  const std::unique_ptr<Engine> inner;
  PoisonedEngine poisoned;
  LateEngine drawer;
  Engine& engine;
  LocalExperts local;
  FailingExperts experts;
  StepRunner runner;
};

class Router {
 public:
  Router(const TinyWorkerModel& model, int seed) : rng_(seed), ahead_(model, true), serial_(model, false) {
    ahead_.drawer.ready = [this](int) { return Chance(40); };
    ahead_.drawer.wait = [] {};
  }

  // One event.
  void Go() {
    if (in_flight_.size() < 2 && Chance(60)) return Plan();
    if (!in_flight_.empty()) return FinishOldest();
    if (Chance(10)) BeginEpoch();
  }
  std::map<std::string, int> counts;

 private:
  struct Sequence {
    uint64_t id = 0;
    int prompt = 0;
    std::vector<TokenId> tokens;  // prompt, and the answer as far as it is committed
    int committed = 0;            // of them, in the cache
    bool started = false;         // in a step that is committed or in flight
    bool over = false;            // a token came behind which nothing follows, or none
    v1::SequenceStart start;
    std::set<TokenId> stops;
  };
  struct Step {
    v1::StepPlan plan;
    bool fails = false;
    bool started = false;
    std::set<uint64_t> released;
  };

  bool Chance(int percent) { return static_cast<int>(rng_() % 100) < percent; }
  int UpTo(int max) { return 1 + static_cast<int>(rng_() % static_cast<unsigned>(max)); }

  void AddSequence() {
    Sequence& sequence = sequences_[next_id_];
    sequence.id = next_id_++;
    sequence.prompt = Chance(30) ? UpTo(60) : UpTo(12);
    // Many begin alike, so that a snapshot is worth something.
    for (int i = 0; i < sequence.prompt; ++i)
      sequence.tokens.push_back(i < 40 ? (i * 7 + 1) % TinyWorkerModel::kNoToken
                                       : static_cast<TokenId>(rng_() % TinyWorkerModel::kNoToken));
    v1::SequenceStart& start = sequence.start;
    start.set_sequence(sequence.id);
    start.set_prompt_tokens(static_cast<uint32_t>(sequence.prompt));
    start.set_kv_blocks(kBlocksPerSequence);
    v1::SamplingParams* sampling = start.mutable_sampling();
    sampling->set_seed(sequence.id);
    sampling->set_temperature(Chance(40) ? 0 : 1.5f);
    sampling->set_top_p(Chance(70) ? 1 : 0.9f);
    sampling->set_top_k(Chance(70) ? 0 : 20);
    sampling->set_repetition_penalty(Chance(90) ? 1 : 1.2f);
    start.set_want_logprobs(Chance(5));
    start.set_want_prompt_logprobs(Chance(5));
    for (int i = 0; i < 3; ++i) sequence.stops.insert(static_cast<TokenId>(rng_() % TinyWorkerModel::kNoToken));
    for (const TokenId token : sequence.stops) start.add_stop_tokens(token);
  }

  // The next step, behind the one in flight, of which the router knows the plan alone.
  void Plan() {
    Step step;
    v1::StepPlan& plan = step.plan;
    plan.set_rows_max(kStepTokens);
    const v1::StepPlan* const before = in_flight_.empty() ? nullptr : &in_flight_.back().plan;
    Release(&step);
    if (sequences_.size() < kSequencesMax && Chance(50)) AddSequence();
    if (!snapshots_.empty() && Chance(10)) {
      plan.add_drop_snapshots(*snapshots_.begin());
      snapshots_.erase(snapshots_.begin());
    }
    for (auto& [id, sequence] : sequences_) {
      const v1::SequenceChunk* last = nullptr;
      for (int i = 0; before && i < before->chunks_size(); ++i)
        if (before->chunks(i).sequence() == id) last = &before->chunks(i);
      if (last) {
        AddBehind(sequence, *last, &plan);
      } else if (!sequence.over && Chance(85)) {
        AddChunk(sequence, sequence.committed, &plan);
      }
    }
    step.fails = Chance(4);
    in_flight_.push_back(std::move(step));
    StartWhatCan();
  }

  void Release(Step* step) {
    for (auto it = sequences_.begin(); it != sequences_.end();) {
      const Sequence& sequence = it->second;
      const bool full = sequence.committed > kContext - 20;
      if (!(full || (sequence.over ? Chance(60) : Chance(3)))) {
        ++it;
        continue;
      }
      if (sequence.started) step->plan.add_release(sequence.id);
      it = sequences_.erase(it);
    }
  }

  // As the router does, whose last chunk says what will be there.
  void AddBehind(Sequence& sequence, const v1::SequenceChunk& last, v1::StepPlan* plan) {
    const int rows = last.follows() ? 1 : last.tokens_size(), position = static_cast<int>(last.position()) + rows;
    if (last.drafts() > 0 || position + 1 >= kContext || Chance(15)) return;
    if (!last.sample()) return AddChunk(sequence, position, plan);
    v1::SequenceChunk* const chunk = plan->add_chunks();
    chunk->set_sequence(sequence.id);
    chunk->set_position(static_cast<uint32_t>(position));
    chunk->set_follows(true);
    chunk->set_sample(Chance(90));
    AddSave(position, position + 1, chunk);
  }

  void AddChunk(Sequence& sequence, int position, v1::StepPlan* plan) {
    const int left = static_cast<int>(sequence.tokens.size()) - position;
    if (left <= 0) return;  // what comes is not known
    if (!sequence.started) {
      *plan->add_start() = sequence.start;
      if (!sequence.start.want_prompt_logprobs() && !committed_snapshots_.empty() && Chance(60)) {
        const auto& [snapshot, length] = *committed_snapshots_.rbegin();
        if (snapshots_.contains(snapshot) && length < sequence.prompt && length <= 40) {
          v1::SequenceStart* const start = plan->mutable_start(plan->start_size() - 1);
          start->set_resume(snapshot);
          if (sequence.start.sampling().repetition_penalty() != 1)
            start->mutable_resumed_tokens()->Add(sequence.tokens.begin(), sequence.tokens.begin() + length);
          sequence.committed = position = length;
          ++counts["resumed"];
        }
      }
    }
    sequence.started = true;
    const int most = static_cast<int>(sequence.tokens.size()) - position;
    const int n = std::min(most, Chance(60) ? most : UpTo(30));
    v1::SequenceChunk* const chunk = plan->add_chunks();
    chunk->set_sequence(sequence.id);
    chunk->set_position(static_cast<uint32_t>(position));
    for (int i = 0; i < n; ++i) chunk->add_tokens(sequence.tokens[static_cast<size_t>(position + i)]);
    chunk->set_sample(n == most);
    AddSave(position, position + n, chunk);
    if (n == 1 && chunk->sample() && position >= sequence.prompt && Chance(20)) {
      for (int i = UpTo(3); i > 0; --i) chunk->add_tokens(static_cast<TokenId>(rng_() % TinyWorkerModel::kNoToken));
      chunk->set_drafts(static_cast<uint32_t>(chunk->tokens_size()) - 1);
    }
  }

  void AddSave(int begin, int end, v1::SequenceChunk* chunk) {
    const int position = end / kKvBlockTokens * kKvBlockTokens;
    if (position <= begin || snapshots_.size() >= 3 || Chance(50)) return;
    v1::SnapshotSave* const save = chunk->add_saves();
    save->set_snapshot(++next_snapshot_);
    save->set_position(static_cast<uint32_t>(position));
    snapshots_.insert(next_snapshot_);
  }

  void StartWhatCan() {
    for (Step& step : in_flight_) {
      if (step.started) continue;
      if (!ahead_.runner.CanStart(step.plan) || (ahead_.runner.started() > 0 && Chance(10))) return;
      if (ahead_.runner.started() > 0) ++counts["ahead"];
      if (step.fails) ahead_.experts.FailNext();
      ahead_.runner.Start(step.plan, ahead_.experts);
      step.started = true;
    }
  }

  void FinishOldest() {
    StartWhatCan();
    const Step step = std::move(in_flight_.front());
    in_flight_.pop_front();
    if (Chance(50) && !ahead_.runner.Drawn()) ++counts["looked"];
    absl::StatusOr<v1::StepDone> done = ahead_.runner.Finish();
    if (step.fails) serial_.experts.FailNext();
    const absl::StatusOr<v1::StepDone> expected = serial_.runner.Run(step.plan, serial_.experts);
    ASSERT_EQ(done.status(), expected.status());
    if (!done.ok()) ++counts["failed"];
    if (done.ok()) {
      ASSERT_EQ(done->ShortDebugString(), expected->ShortDebugString());
    }
    if (!done.ok() || Chance(6)) return Void(done.ok());
    Commit(step, *done);
  }

  void Commit(const Step& step, const v1::StepDone& done) {
    int next = 0;
    for (const v1::SequenceChunk& chunk : step.plan.chunks()) {
      const auto found = sequences_.find(chunk.sequence());
      for (const v1::SnapshotSave& save : chunk.saves())
        committed_snapshots_[save.snapshot()] = static_cast<int>(save.position());
      const bool mine =
          chunk.sample() && next < done.sampled_size() && done.sampled(next).sequence() == chunk.sequence();
      const v1::Sampled* const sampled = mine ? &done.sampled(next++) : nullptr;
      if (found == sequences_.end()) continue;
      Sequence& sequence = found->second;
      if (chunk.follows() && sequence.over) {
        ++counts["left out"];
        ASSERT_EQ(sampled, nullptr);
        for (const v1::SnapshotSave& save : chunk.saves()) {
          committed_snapshots_.erase(save.snapshot());
          snapshots_.erase(save.snapshot());
        }
        continue;
      }
      sequence.committed += (chunk.follows() ? 1 : chunk.tokens_size()) - static_cast<int>(chunk.drafts());
      if (!chunk.sample()) continue;
      ASSERT_NE(sampled, nullptr);
      Say(sequence, sampled->token().token());
      for (const v1::TokenLogprob& more : sampled->more()) {
        ++sequence.committed;
        Say(sequence, more.token());
      }
      if (!sampled->error().empty()) ++counts["not finite"];
    }
    ASSERT_EQ(next, done.sampled_size());
  }

  static void Say(Sequence& sequence, TokenId token) {
    if (token >= 0) sequence.tokens.push_back(token);
    sequence.over = sequence.over || token < 0 || sequence.stops.contains(token);
  }

  // The step that is over was void: it failed, or another worker did.
  void Void(bool went_well) {
    ++counts["void"];
    if (!in_flight_.empty() && in_flight_.front().started) {
      const absl::StatusOr<v1::StepDone> done = ahead_.runner.Finish();
      if (went_well) {  // the other worker runs what it was sent until it is told to stop
        if (in_flight_.front().fails) serial_.experts.FailNext();
        ASSERT_EQ(done.status(), serial_.runner.Run(in_flight_.front().plan, serial_.experts).status());
      } else {
        ASSERT_FALSE(done.ok());
        ++counts["failed behind a failure"];
      }
      if (went_well) in_flight_.pop_front();
    }
    for (const Step& never_run : in_flight_) {
      for (const v1::SequenceStart& start : never_run.plan.start()) {
        const auto found = sequences_.find(start.sequence());
        if (found == sequences_.end()) continue;
        found->second.started = false;
        found->second.committed = 0;
      }
    }
    in_flight_.clear();
    BeginEpoch();
  }

  void BeginEpoch() {
    v1::Begin begin;
    for (auto& [id, sequence] : sequences_) {
      if (!sequence.started) continue;
      begin.add_keep()->set_sequence(id);
      begin.mutable_keep(begin.keep_size() - 1)->set_length(static_cast<uint32_t>(sequence.committed));
    }
    std::erase_if(committed_snapshots_, [this](const auto& entry) { return !snapshots_.contains(entry.first); });
    snapshots_.clear();
    for (const auto& [snapshot, length] : committed_snapshots_) {
      snapshots_.insert(snapshot);
      begin.add_keep_snapshots(snapshot);
    }
    ASSERT_EQ(ahead_.drawer.left(), 0u);
    const std::vector<uint64_t> missing = ahead_.runner.Begin(begin);
    ASSERT_EQ(missing, serial_.runner.Begin(begin));
    ASSERT_EQ(ahead_.runner.sequences().size(), serial_.runner.sequences().size());
    ASSERT_EQ(ahead_.runner.sequences().blocks().used(), serial_.runner.sequences().blocks().used());
    ASSERT_EQ(ahead_.runner.sequences().snapshots().size(), serial_.runner.sequences().snapshots().size());
    ASSERT_EQ(ahead_.runner.sequences().conv_copies_used(), serial_.runner.sequences().conv_copies_used());
    for (const uint64_t id : missing) {
      ++counts["missing"];
      sequences_.erase(id);
    }
  }

  std::mt19937 rng_;
  Host ahead_, serial_;
  std::map<uint64_t, Sequence> sequences_;
  uint64_t next_id_ = 1, next_snapshot_ = 0;
  std::deque<Step> in_flight_;
  std::set<uint64_t> snapshots_;                 // saved in steps that are committed or in flight, not dropped
  std::map<uint64_t, int> committed_snapshots_;  // and their lengths
};

TEST(StepsAhead, GiveWhatOneStepAfterTheOtherGives) {
  const TinyWorkerModel model;
  std::map<std::string, int> counts;
  for (int seed = 0; seed < 60; ++seed) {
    Router router(model, seed);
    for (int event = 0; event < 400; ++event) {
      router.Go();
      if (testing::Test::HasFatalFailure()) FAIL() << "seed " << seed << ", event " << event;
    }
    for (const auto& [what, count] : router.counts) counts[what] += count;
  }
  for (const char* what :
       {"ahead", "looked", "left out", "not finite", "failed", "failed behind a failure", "void", "missing", "resumed"})
    EXPECT_GT(counts[what], 20) << what;
}

}  // namespace
}  // namespace braid
