#include "tests/simulation/oracle.h"

#include <fmt/format.h>

#include <array>
#include <limits>
#include <memory>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "base/planted_bug.h"
#include "expert_worker/logprobs.h"
#include "expert_worker/sampler.h"
#include "tests/simulation/random.h"
#include "tests/simulation/toy_model.h"

namespace braid::simulation {
namespace {

std::string Spell(const std::vector<TokenScore>& scores) {
  std::string text;
  for (const TokenScore& score : scores) {
    text += fmt::format("{}:{};", score.token, score.logprob);
    for (const TokenScore& top : score.top) text += fmt::format("{}={},", top.token, top.logprob);
  }
  return text;
}

bool IsPrefix(const std::string& a, const std::string& b) { return b.compare(0, a.size(), a) == 0; }
bool IsPrefix(const std::vector<TokenId>& a, const std::vector<TokenId>& b) {
  return a.size() <= b.size() && std::equal(a.begin(), a.end(), b.begin());
}
bool IsPrefix(const std::vector<Transcript::ToolCall>& a, const std::vector<Transcript::ToolCall>& b) {
  if (a.size() > b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].id != b[i].id || a[i].name != b[i].name || !IsPrefix(a[i].arguments, b[i].arguments)) return false;
  }
  return true;
}

// One sequence, token after token, by the model alone.
std::vector<GeneratedToken> Answer(const v1::GenerateSequenceRequest& request,
                                   std::vector<GeneratedToken>* prompt_scores, bool* at_limit) {
  const ToyModel& model = ToyModel::Get();
  ThreadPool pool(1);
  const int positions = request.prompt_size() + static_cast<int>(request.max_new_tokens());
  HostStates states(model.config(), {.blocks = positions / kKvBlockTokens + 1});
  SequenceCache cache = {.conv_slot = 0};
  for (int block = 0; block < states.sizes().blocks; ++block) cache.blocks.push_back(block);
  GatedExpertFfn ffn(&model.config(), &model.tensors(), &pool);
  LocalExperts experts(model.config().experts, &ffn, &pool);
  ToyForward forward(&states, {});
  const auto score = [&](std::span<const float> logits, TokenId token) {
    v1::TokenLogprob scored;
    scored.set_token(token);
    const double sum = LogSumExp(logits);
    scored.set_logprob(static_cast<float>(logits[token] - sum));
    if (request.top_logprobs() > 0) AddAlternatives(logits, sum, static_cast<int>(request.top_logprobs()), &scored);
    GeneratedToken out{token, scored.logprob(), {}};
    for (const v1::TokenAlternative& top : scored.top()) out.top.emplace_back(top.token(), top.logprob());
    return out;
  };

  TokenCounts counts;
  std::vector<TokenId> log(request.prompt().begin(), request.prompt().end());
  for (const TokenId token : log) counts.Add(token, false);
  std::vector<float> logits;
  std::vector<GeneratedToken> answer;
  const size_t V = static_cast<size_t>(model.config().vocab_size);
  int computed = 0;
  for (;;) {
    const Chunk chunk = {.cache = &cache,
                         .position = computed,
                         .tokens = std::span(log).subspan(static_cast<size_t>(computed)),
                         .logits = Chunk::Logits::kAll};
    CHECK_OK(forward.Run({&chunk, 1}, experts, &logits));
    computed = static_cast<int>(log.size());
    if (answer.empty() && request.want_prompt_logprobs()) {
      for (size_t i = 1; i < log.size(); ++i) {
        prompt_scores->push_back(score(std::span(logits).subspan((i - 1) * V, V), log[i]));
      }
    }
    const std::vector<float> raw(logits.end() - static_cast<ptrdiff_t>(V), logits.end());
    std::vector<float> row = raw;
    const absl::StatusOr<TokenId> token = SampleToken(row, request.sampling(), counts, {}, log.size());
    CHECK(token.ok()) << token.status();
    counts.Add(*token, true);
    log.push_back(*token);
    answer.push_back(request.want_logprobs() ? score(raw, *token) : GeneratedToken{*token, 0, {}});
    for (const int32_t stop : request.stop_tokens()) {
      if (stop != *token) continue;
      *at_limit = false;
      return answer;
    }
    if (answer.size() == request.max_new_tokens()) {
      *at_limit = true;
      return answer;
    }
  }
}

CallRecord RightAnswer(const PreparedCall& call) {
  CallFold fold(ToyModel::Get().served().tokenizer.get(), call, 0);
  CallRecord record;
  const auto take = [&] {
    for (const CallEvent& event : fold.TakeEvents()) {
      const std::string wrong = record.Add(event);
      CHECK(wrong.empty()) << wrong;
    }
  };
  SequenceUpdate accepted;
  accepted.accepted = true;
  for (int i = 0; i < fold.sequences(); ++i) fold.OnUpdate(i, accepted);
  for (int i = 0; i < fold.sequences(); ++i) {
    std::vector<GeneratedToken> prompt_scores;
    bool at_limit = false;
    const std::vector<GeneratedToken> tokens = Answer(fold.Request(i, "exam"), &prompt_scores, &at_limit);
    SequenceUpdate scored;
    for (size_t p = 0; p < prompt_scores.size(); ++p) scored.prompt_scores.push_back({p + 1, prompt_scores[p]});
    fold.OnUpdate(i, scored);
    for (size_t t = 0; t < tokens.size(); ++t) {
      SequenceUpdate update;
      update.tokens.push_back(tokens[t]);
      if (t + 1 == tokens.size()) {
        update.end = at_limit ? SequenceUpdate::End::kLimit : SequenceUpdate::End::kStop;
      }
      fold.OnUpdate(i, update);
      take();
    }
  }
  CHECK(record.done());
  return record;
}

v1::SamplingParams MakeSampling(Random& random) {
  v1::SamplingParams sampling;
  sampling.set_temperature(random.Chance(0.4) ? 0 : random.Chance(0.5) ? 1 : 0.7f);
  sampling.set_top_p(random.Chance(0.3) ? 0.9f : 1);
  sampling.set_top_k(random.Chance(0.3) ? 10 : 0);
  sampling.set_min_p(random.Chance(0.1) ? 0.05f : 0);
  sampling.set_repetition_penalty(random.Chance(0.4) ? 1.25f : 1);
  sampling.set_presence_penalty(random.Chance(0.3) ? 0.75f : 0);
  sampling.set_frequency_penalty(random.Chance(0.3) ? 1.5f : 0);
  sampling.set_seed(random.Next());
  if (random.Chance(0.1)) {
    v1::LogitBias* const bias = sampling.add_logit_bias();
    bias->set_token(vocabulary::kFirstWord + random.Between(0, vocabulary::kWords - 1));
    bias->set_bias(5);
  }
  return sampling;
}

// What many prompts begin with, as with instructions.
std::vector<TokenId> Opening(int which) {
  using namespace vocabulary;  // NOLINT
  Random random(static_cast<uint64_t>(which) + 7);
  std::vector<TokenId> tokens = {kBos};
  const int length = random.Between(33, 120);
  while (static_cast<int>(tokens.size()) < length) tokens.push_back(kFirstWord + random.Between(0, kWords + 8));
  return tokens;
}

// The turn that was `before`: its prompt and its answer.
std::vector<TokenId> Conversation(const Exam& before) {
  std::vector<TokenId> tokens = before.call.prompts[0].tokens;
  const std::vector<TokenId>& answer = before.answer.choices()[0].tokens;
  tokens.insert(tokens.end(), answer.begin(), answer.end());
  return tokens;
}

PreparedCall MakeCall(Random& random, bool poison, const Exam* before) {
  using namespace vocabulary;  // NOLINT
  PreparedCall call;
  call.chat = random.Chance(0.6);
  call.parse_calls = call.chat && random.Chance(0.7);
  call.n = random.Chance(0.15) ? 2 : 1;
  call.sampling = MakeSampling(random);
  PreparedPrompt prompt;
  const bool scored = random.Chance(0.2);
  call.echo = scored && !call.chat && random.Chance(0.8);
  int length = random.Chance(call.echo ? 0.4 : 0.1) ? random.Between(80, 200) : random.Between(1, 50);
  prompt.tokens.push_back(kBos);
  // Some end the chorus as the model may: what it copies then ends its answer.
  const bool sung = random.Chance(0.6);
  if (before != nullptr) {
    prompt.tokens = Conversation(*before);
    length = static_cast<int>(prompt.tokens.size()) + random.Between(1, 30);
  } else if (length <= 80 && random.Chance(0.6)) {
    prompt.tokens = Opening(random.Between(0, 2));
    length += static_cast<int>(prompt.tokens.size());
  }
  call.cache_scope = random.Chance(0.2) ? "another" : "";
  call.no_cache = random.Chance(0.05);
  while (static_cast<int>(prompt.tokens.size()) < length) {
    if (sung && random.Chance(0.2)) {
      for (TokenId word = 0; word < kChorusWords; ++word) prompt.tokens.push_back(kFirstWord + word);
      prompt.tokens.push_back(kImEnd);
    }
    prompt.tokens.push_back(kFirstWord + random.Between(0, kWords + 8));
  }
  if (poison) prompt.tokens[random.Below(prompt.tokens.size())] = kPoison;
  prompt.max_new_tokens = random.Chance(0.3) ? random.Between(60, 120) : random.Between(1, 40);
  if (scored) {
    call.want_logprobs = true;
    call.top_logprobs = random.Between(0, 2);
    prompt.text = "prompt";
  }
  call.prompts.push_back(std::move(prompt));
  if (random.Chance(0.9)) call.stop_tokens = {kImEnd, kEndOfText};
  if (random.Chance(0.4)) {
    const std::vector<std::string> stops = {"STOP",         " sea a", "a of sea", "\xC3\xA9 ",
                                            "\xE2\x82\xAC", " so so", " the sea", "."};
    for (int i = random.Between(1, 3); i > 0; --i) call.stop.push_back(random.Pick(stops));
  }
  return call;
}

Exam MakeExam(int index) {
  Random random(static_cast<uint64_t>(index) + 77);
  Exam exam;
  exam.poison = index % 16 == 15;
  const Exam* before = index % 4 == 2 ? &GetExam(index - 1) : nullptr;
  if (before != nullptr && Conversation(*before).size() > 200) before = nullptr;
  exam.call = MakeCall(random, exam.poison, before);
  const WithoutPlantedBug sound;
  exam.answer = RightAnswer(exam.call);
  return exam;
}

}  // namespace

std::string CallRecord::Add(const CallEvent& event) {
  if (ended()) return "an event after the end of the call";
  if (std::holds_alternative<Accepted>(event)) {
    if (std::exchange(accepted_, true)) return "accepted twice";
    return "";
  }
  if (const auto* error = std::get_if<ApiError>(&event)) {
    failed_ = true;
    error_ = *error;
    return "";
  }
  if (!accepted_) return "an event before the call was accepted";
  if (const auto* echoed = std::get_if<EchoedPrompt>(&event)) {
    Transcript& choice = Choice(echoed->choice);
    if (!choice.tokens.empty() || !choice.echo.empty()) return "the prompt was echoed late or twice";
    choice.echo = echoed->text;
    choice.scores += Spell(echoed->logprobs);
  } else if (const auto* delta = std::get_if<Delta>(&event)) {
    Transcript& choice = Choice(delta->choice);
    if (choice.finished) return "a delta after the end of its choice";
    choice.tokens.insert(choice.tokens.end(), delta->tokens.begin(), delta->tokens.end());
    choice.scores += Spell(delta->logprobs);
    if (delta->kind == Delta::Kind::kReasoning) choice.reasoning += delta->text;
    if (delta->kind == Delta::Kind::kContent) choice.content += delta->text;
    if (delta->kind == Delta::Kind::kToolCall) {
      if (!delta->tool_name.empty() || !delta->tool_id.empty()) {
        choice.calls.push_back({delta->tool_id, delta->tool_name, ""});
      }
      if (delta->tool_index + 1 != static_cast<int>(choice.calls.size())) return "a piece of another tool call";
      choice.calls.back().arguments += delta->text;
    }
  } else if (const auto* finished = std::get_if<Finished>(&event)) {
    Transcript& choice = Choice(finished->choice);
    if (std::exchange(choice.finished, true)) return "a choice finished twice";
    choice.reason = finished->reason;
  } else if (const auto* totals = std::get_if<Done>(&event)) {
    done_ = true;
    totals_ = *totals;
    for (const Transcript& choice : choices_) {
      if (!choice.finished) return "the call is done, but not all of its choices";
    }
  }
  return "";
}

Transcript& CallRecord::Choice(int index) {
  if (choices_.size() <= static_cast<size_t>(index)) choices_.resize(static_cast<size_t>(index) + 1);
  return choices_[static_cast<size_t>(index)];
}

std::string CallRecord::DifferenceFrom(const CallRecord& right) const {
  if (choices_.size() > right.choices_.size()) return "choices that were not asked for";
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Transcript &mine = choices_[i], &other = right.choices_[i];
    if (!IsPrefix(mine.tokens, other.tokens)) {
      return fmt::format("choice {}: tokens [{}], the right ones are [{}]", i, fmt::join(mine.tokens, " "),
                         fmt::join(other.tokens, " "));
    }
    const auto differs = [&](const char* what, const std::string& a, const std::string& b) {
      return fmt::format("choice {}: {} '{}', the right one is '{}'", i, what, a, b);
    };
    if (!IsPrefix(mine.content, other.content)) return differs("content", mine.content, other.content);
    if (!IsPrefix(mine.reasoning, other.reasoning)) return differs("reasoning", mine.reasoning, other.reasoning);
    if (!IsPrefix(mine.echo, other.echo)) return differs("echo", mine.echo, other.echo);
    if (!IsPrefix(mine.scores, other.scores)) return differs("scores", mine.scores, other.scores);
    if (!IsPrefix(mine.calls, other.calls)) return fmt::format("choice {}: other tool calls", i);
    if (mine.finished && !(mine == other)) {
      return fmt::format("choice {} finished with {} tokens and reason {}; right are {} and {}; content '{}', '{}'", i,
                         mine.tokens.size(), FinishReasonName(mine.reason), other.tokens.size(),
                         FinishReasonName(other.reason), mine.content, other.content);
    }
  }
  if (!done_) return "";
  if (choices_.size() != right.choices_.size()) return "done without all of its choices";
  if (totals_.prompt_tokens != right.totals_.prompt_tokens ||
      totals_.completion_tokens != right.totals_.completion_tokens ||
      totals_.reasoning_tokens != right.totals_.reasoning_tokens) {
    return fmt::format("counts {} and {} tokens, right are {} and {}", totals_.prompt_tokens, totals_.completion_tokens,
                       right.totals_.prompt_tokens, right.totals_.completion_tokens);
  }
  return "";
}

const Exam& GetExam(int index) {
  static std::array<std::once_flag, kExams>* const once = new std::array<std::once_flag, kExams>;
  static std::array<std::unique_ptr<const Exam>, kExams>* const exams =
      new std::array<std::unique_ptr<const Exam>, kExams>;
  std::call_once((*once)[static_cast<size_t>(index)],
                 [index] { (*exams)[static_cast<size_t>(index)] = std::make_unique<const Exam>(MakeExam(index)); });
  return *(*exams)[static_cast<size_t>(index)];
}

}  // namespace braid::simulation
