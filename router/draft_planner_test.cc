#include "router/draft_planner.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>

namespace braid {
namespace {

// Sequences that decode together on a machine with a cost per row.
class Bench {
 public:
  explicit Bench(int drafts_max, absl::Duration step, absl::Duration row)
      : planner_(drafts_max), step_(step), row_(row) {}

  // `copies`: of 100 tokens, those that its text has said before.
  void Add(int copies, uint32_t max_new_tokens = 1000) {
    v1::GenerateSequenceRequest request;
    for (int i = 0; i < 50; ++i) request.add_prompt(static_cast<int>(rng_() % 5000));
    request.set_max_new_tokens(max_new_tokens);
    const SequenceId id(sequences_.size() + 1);
    sequences_.push_back({std::make_unique<Sequence>(id, request, absl::UnixEpoch()), copies});
  }

  // One step; the model repeats the prompt with slips. Returns the tokens it gave.
  int Run(int prefill_rows = 0) {
    std::vector<v1::SequenceChunk> chunks(sequences_.size());
    std::vector<DraftPlanner::Decode> decodes;
    for (size_t i = 0; i < sequences_.size(); ++i) {
      Sequence* sequence = sequences_[i].sequence.get();
      decodes.push_back({sequence, &chunks[i], 0, sequence->answer_tokens_left() - 1});
    }
    int rows = prefill_rows + static_cast<int>(decodes.size());
    planner_.Choose(decodes, rows);
    int tokens = 0;
    for (size_t i = 0; i < decodes.size(); ++i) {
      Sequence& sequence = *sequences_[i].sequence;
      DraftPlanner::AddDrafts(decodes[i], decodes[i].drafts);
      EXPECT_LT(decodes[i].drafts, std::max(1, sequence.answer_tokens_left()));
      rows += decodes[i].drafts;
      drafts_ += decodes[i].drafts;
      for (int draft = 0;; ++draft, ++tokens) {
        const TokenId token = Next(sequences_[i]);
        const bool right = draft < decodes[i].drafts && chunks[i].tokens(draft) == token;
        planner_.OnToken(sequence, token);
        sequence.Append(token);
        if (!right) break;
      }
      ++tokens;
    }
    time_ += step_ + row_ * rows;
    planner_.OnStep(rows, step_ + row_ * rows);
    return tokens;
  }

  // Tokens per second over the last of so many steps.
  double Rate(int steps, int prefill_rows = 0) {
    for (int i = 0; i < steps / 2; ++i) Run(prefill_rows);
    time_ = absl::ZeroDuration();
    drafts_ = 0;
    int tokens = 0;
    for (int i = 0; i < steps / 2; ++i) tokens += Run(prefill_rows);
    return tokens / absl::ToDoubleSeconds(time_);
  }
  int drafts() const { return drafts_; }

 private:
  struct Running {
    std::unique_ptr<Sequence> sequence;
    int copies = 0;
  };
  TokenId Next(const Running& running) {
    const std::vector<TokenId>& log = running.sequence->log();
    if (static_cast<int>(rng_() % 100) >= running.copies) return static_cast<TokenId>(rng_() % 5000);
    return log[log.size() - 50];
  }

  DraftPlanner planner_;
  const absl::Duration step_, row_;
  std::mt19937 rng_{1};
  std::vector<Running> sequences_;
  absl::Duration time_;
  int drafts_ = 0;
};

// Tokens per second with drafts, over those without.
double Gain(int sequences, int copies, absl::Duration step, absl::Duration row, int prefill_rows = 0) {
  double rates[2];
  for (int drafts_max : {0, 8}) {
    Bench bench(drafts_max, step, row);
    for (int i = 0; i < sequences; ++i) bench.Add(copies, 1000000);
    rates[drafts_max > 0] = bench.Rate(2000, prefill_rows);
  }
  return rates[1] / rates[0];
}

constexpr absl::Duration kWeights = absl::Milliseconds(16), kRow = absl::Milliseconds(5);  // bound by memory
constexpr absl::Duration kLittle = absl::Microseconds(100);

TEST(DraftPlanner, SaysWhetherItMightDraftBehindOneMoreToken) {
  for (const bool repeats : {true, false}) {
    v1::GenerateSequenceRequest request;
    for (int i = 0; i < 60; ++i) request.add_prompt(repeats ? i % 10 : i);
    request.set_max_new_tokens(100);
    Sequence sequence(SequenceId(1), request, absl::UnixEpoch());
    DraftPlanner planner(8);
    planner.OnStep(1, kWeights);
    std::vector<DraftPlanner::Decode> decodes = {{.sequence = &sequence, .most = 8}};
    EXPECT_EQ(planner.WouldChoose(decodes, 1), repeats);
  }
}

TEST(DraftPlanner, ALoneSequenceThatCopiesGoesMuchFaster) {
  EXPECT_GT(Gain(1, 100, kWeights, kLittle), 6);
  EXPECT_GT(Gain(1, 95, kWeights, kRow), 1.7);
  EXPECT_GT(Gain(1, 80, kWeights, kRow), 1.1);
}

TEST(DraftPlanner, WhatCopiesNothingLosesNothing) {
  for (const absl::Duration row : {kLittle, kRow}) {
    for (const int sequences : {1, 4, 32}) EXPECT_GT(Gain(sequences, 0, kWeights, row), 0.98) << sequences;
  }
}

TEST(DraftPlanner, WhatCopiesNowAndThenLosesNothing) {
  for (const int copies : {20, 40, 60, 80}) {
    for (const int sequences : {1, 4, 64}) {
      EXPECT_GT(Gain(sequences, copies, kWeights, kRow), 0.98) << copies << " " << sequences;
      EXPECT_GT(Gain(sequences, copies, kLittle, kRow), 0.98) << copies << " " << sequences << ", bound by compute";
    }
  }
}

TEST(DraftPlanner, SwitchesItselfOffWhereRowsAreDear) {
  Bench dear(8, absl::ZeroDuration(), kRow);  // each row costs as much as a token is worth
  dear.Add(95, 1000000);
  dear.Rate(2000);
  EXPECT_LT(dear.drafts(), 200) << "of a thousand steps, each a loss of a fortieth";
  Bench busy(8, kWeights, kRow);
  for (int i = 0; i < 64; ++i) busy.Add(90, 1000000);
  busy.Rate(400);
  EXPECT_LT(busy.drafts(), 64 * 200 / 10);
  Bench prefill(8, kWeights, kRow);
  prefill.Add(90, 1000000);
  prefill.Rate(400, 256);
  EXPECT_LT(prefill.drafts(), 20);
}

TEST(DraftPlanner, DraftsForThoseThatCopyAndNotForTheOthers) {
  Bench bench(8, kWeights, kLittle);
  bench.Add(100, 1000000);
  bench.Add(0, 1000000);
  EXPECT_GT(bench.Rate(1000) * 0.017, 8);  // 9 tokens and 1 in a step of less than 17 ms
}

TEST(DraftPlanner, GuessesNoMoreThanTheAnswerMayHave) {
  for (uint32_t max_new_tokens = 1; max_new_tokens < 30; ++max_new_tokens) {
    Bench bench(8, kWeights, kLittle);
    bench.Add(100, max_new_tokens);
    for (uint32_t tokens = 0; tokens < max_new_tokens;) {
      tokens += static_cast<uint32_t>(bench.Run());
      ASSERT_LE(tokens, max_new_tokens);
    }
  }
}

TEST(DraftPlanner, NoneAtAllIfToldSo) {
  Bench bench(0, kWeights, kLittle);
  bench.Add(100);
  bench.Rate(100);
  EXPECT_EQ(bench.drafts(), 0);
}

}  // namespace
}  // namespace braid
