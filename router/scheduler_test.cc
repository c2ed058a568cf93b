#include "router/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

namespace braid {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;

constexpr Scheduler::Limits kLimits{.step_tokens = 64, .chunk_tokens = 16, .sequences_max = 8};
constexpr uint32_t kBlockTokens = 16;

std::unique_ptr<Sequence> NewSequence(uint64_t id, int prompt, uint32_t max_new_tokens, int generated = 0) {
  v1::GenerateSequenceRequest request;
  for (int i = 0; i < prompt; ++i) request.add_prompt(i % 100);
  for (int i = 0; i < generated; ++i) request.add_generated(100 + i);
  request.set_max_new_tokens(max_new_tokens);
  return std::make_unique<Sequence>(SequenceId(id), request, absl::UnixEpoch());
}

Group NewGroup(int workers, uint64_t kv_blocks = 1000, int sequences_max = 100, int step_tokens_max = 1000) {
  std::vector<Group::Worker> members;
  for (int i = 0; i < workers; ++i) {
    members.push_back({.id = WorkerId(static_cast<uint32_t>(i + 1)),
                       .kv_blocks_total = kv_blocks,
                       .sequences_max = sequences_max,
                       .step_tokens_max = step_tokens_max});
  }
  return Group(Epoch(1), kBlockTokens, std::move(members));
}

// A scheduler with workers that answer every step with the same token.
struct Bench {
  explicit Bench(Scheduler::Limits limits = kLimits, Group group = NewGroup(1)) : scheduler(limits) {
    scheduler.StartEpoch(std::move(group), &begins);
  }

  // False if there is no room.
  bool Add(uint64_t id, int prompt, uint32_t max_new_tokens = 50, int generated = 0) {
    std::unique_ptr<Sequence> sequence = NewSequence(id, prompt, max_new_tokens, generated);
    const std::optional<int> owner = scheduler.PickOwner(*sequence);
    if (owner) scheduler.Admit(std::move(sequence), *owner);
    return owner.has_value();
  }

  // Plans a step and commits it at once, with so many drafts that were right; returns the rows by sequence.
  std::map<uint64_t, int> Run(int right = 0) {
    std::map<uint64_t, int> rows;
    plans = scheduler.PlanStep().value_or(std::vector<v1::StepPlan>(1));
    for (const v1::StepPlan& plan : plans) {
      for (const v1::SequenceChunk& chunk : plan.chunks()) {
        rows[chunk.sequence()] = chunk.tokens_size();
        Sequence* sequence = scheduler.Find(SequenceId(chunk.sequence()));
        const int tokens = 1 + std::min(right, static_cast<int>(chunk.drafts()));
        sequence->OnComputed(chunk.tokens_size() - static_cast<int>(chunk.drafts()) + tokens - 1);
        for (int i = 0; chunk.sample() && i < tokens; ++i) {
          scheduler.OnToken(*sequence, 7);
          sequence->Append(7);
        }
      }
    }
    scheduler.CommitSaves();
    return rows;
  }

  Scheduler scheduler;
  std::vector<v1::Begin> begins;    // of the last StartEpoch
  std::vector<v1::StepPlan> plans;  // of the last Run
};

int Total(const std::map<uint64_t, int>& rows) {
  int total = 0;
  for (const auto& [id, count] : rows) total += count;
  return total;
}

TEST(Scheduler, SplitsAPromptIntoChunksAndSamplesAfterTheLast) {
  Bench bench;
  bench.Add(1, 20);
  bench.Run();
  ASSERT_THAT(bench.plans, SizeIs(1));
  ASSERT_THAT(bench.plans[0].start(), SizeIs(1));
  EXPECT_EQ(bench.plans[0].start(0).prompt_tokens(), 20u);
  EXPECT_EQ(bench.plans[0].start(0).kv_blocks(), 5u);  // 20 + 50 tokens in blocks of 16
  EXPECT_EQ(bench.plans[0].chunks(0).position(), 0u);
  EXPECT_EQ(bench.plans[0].chunks(0).tokens_size(), 16);
  EXPECT_FALSE(bench.plans[0].chunks(0).sample());

  bench.Run();
  EXPECT_THAT(bench.plans[0].start(), IsEmpty());
  EXPECT_EQ(bench.plans[0].chunks(0).position(), 16u);
  EXPECT_THAT(bench.plans[0].chunks(0).tokens(), ElementsAre(16, 17, 18, 19));
  EXPECT_TRUE(bench.plans[0].chunks(0).sample());

  bench.Run();
  EXPECT_EQ(bench.plans[0].chunks(0).position(), 20u);
  EXPECT_THAT(bench.plans[0].chunks(0).tokens(), ElementsAre(7));
  EXPECT_TRUE(bench.plans[0].chunks(0).sample());
}

TEST(Scheduler, PrefillsResubmittedTokensBehindThePrompt) {
  Bench bench;
  bench.Add(1, 3, 50, 2);
  bench.Run();
  EXPECT_EQ(bench.plans[0].start(0).prompt_tokens(), 3u) << "penalties and positions depend on it";
  EXPECT_THAT(bench.plans[0].chunks(0).tokens(), ElementsAre(0, 1, 2, 100, 101));
  EXPECT_TRUE(bench.plans[0].chunks(0).sample());
}

TEST(Scheduler, NeverExceedsTheTokenBudget) {
  Bench bench(kLimits, NewGroup(2, 1000, 100, 24));
  for (uint64_t id = 1; id <= 8; ++id) bench.Add(id, 100);
  for (int step = 0; step < 100; ++step) {
    ASSERT_LE(Total(bench.Run()), kLimits.step_tokens);
    for (const v1::StepPlan& plan : bench.plans) {
      int rows = 0;
      for (const v1::SequenceChunk& chunk : plan.chunks()) {
        rows += chunk.tokens_size();
        ASSERT_LE(chunk.tokens_size(), kLimits.chunk_tokens);
      }
      ASSERT_LE(rows, 24);
    }
  }
}

TEST(Scheduler, ServesDecodesBeforePrefill) {
  Bench bench;
  bench.Add(1, 1);
  bench.Run();
  for (uint64_t id = 2; id <= 6; ++id) bench.Add(id, 1000);
  std::map<uint64_t, int> rows = bench.Run();
  EXPECT_EQ(rows[1], 1);
  EXPECT_EQ(Total(rows), kLimits.step_tokens) << "prefill takes what decodes leave";
}

TEST(Scheduler, DecodesLeaveRoomForPrefill) {
  Bench bench({.step_tokens = 16, .chunk_tokens = 16, .sequences_max = 100});
  for (uint64_t id = 1; id <= 16; ++id) bench.Add(id, 1, 200);
  bench.Run();
  bench.Add(17, 20);
  int steps = 0;
  while (bench.scheduler.Find(SequenceId(17))->answer_tokens() == 0) {
    bench.Run();
    ASSERT_LT(++steps, 20);
  }
}

TEST(Scheduler, DecodesThatWereLeftOutComeFirstNextTime) {
  Bench bench({.step_tokens = 16, .chunk_tokens = 16, .sequences_max = 100});
  for (uint64_t id = 1; id <= 24; ++id) bench.Add(id, 1, 200);
  for (int step = 0; step < 60; ++step) bench.Run();
  int least = 1000, most = 0;
  for (uint64_t id = 1; id <= 24; ++id) {
    const int answer = bench.scheduler.Find(SequenceId(id))->answer_tokens();
    least = std::min(least, answer);
    most = std::max(most, answer);
  }
  EXPECT_GE(least, 35);  // 60 steps of 16 rows for 24 sequences: 40 each
  EXPECT_LE(most - least, 3);
}

TEST(Scheduler, ALongPromptNeitherStarvesOthersNorIsStarved) {
  Bench bench({.step_tokens = 16, .chunk_tokens = 16, .sequences_max = 8});
  bench.Add(1, 5000);
  bench.Run();
  uint64_t next = 2;
  bench.Add(next, 40);
  int last_progress = 0, steps = 0;
  while (bench.scheduler.Find(SequenceId(1))->answer_tokens() == 0) {
    const int before = bench.scheduler.Find(SequenceId(1))->computed();
    bench.Run();
    ++steps;
    if (bench.scheduler.Find(SequenceId(1))->computed() > before) last_progress = steps;
    ASSERT_LT(steps - last_progress, 20) << "the long prompt is starved";
    if (bench.scheduler.Find(SequenceId(next))->answer_tokens() > 0) {  // a new short prompt takes its place
      bench.scheduler.Remove(SequenceId(next));
      bench.Add(++next, 40);
    }
  }
  EXPECT_GT(next, 20u) << "short prompts waited for the long one";
}

TEST(Scheduler, ReservesAllMemoryAtAdmission) {
  Bench bench(kLimits, NewGroup(1, 10));
  EXPECT_TRUE(bench.Add(1, 16, 96));  // 7 of 10 blocks
  EXPECT_FALSE(bench.Add(2, 16, 96));
  EXPECT_TRUE(bench.Add(3, 1, 1));
  bench.scheduler.Remove(SequenceId(3));
  EXPECT_EQ(bench.scheduler.group()->kv_blocks_used(), 7u);
}

TEST(Scheduler, PlacesOnTheWorkerWithTheLeastPromised) {
  Bench bench(kLimits, NewGroup(2));
  bench.Add(1, 100);
  bench.Add(2, 10);
  bench.Add(3, 10);
  EXPECT_EQ(*bench.scheduler.Find(SequenceId(1))->owner(), 0);
  EXPECT_EQ(*bench.scheduler.Find(SequenceId(2))->owner(), 1);
  EXPECT_EQ(*bench.scheduler.Find(SequenceId(3))->owner(), 1);
}

TEST(Scheduler, HoldsNoMoreSequencesThanWorkersAndRouterAllow) {
  Bench per_worker(kLimits, NewGroup(2, 1000, 3));
  for (uint64_t id = 1; id <= 8; ++id) per_worker.Add(id, 1);
  EXPECT_EQ(per_worker.scheduler.running(), 6);
  Bench overall;
  for (uint64_t id = 1; id <= 12; ++id) overall.Add(id, 1);
  EXPECT_EQ(overall.scheduler.running(), kLimits.sequences_max);
}

TEST(Scheduler, TellsTheOwnerWhatToForgetBeforeItsMemoryIsUsedAgain) {
  Bench bench(kLimits, NewGroup(1, 7));
  bench.Add(1, 16, 96);
  bench.Run();
  bench.scheduler.Remove(SequenceId(1));
  bench.Add(2, 16, 96);
  bench.Run();
  EXPECT_THAT(bench.plans[0].release(), ElementsAre(1));
  ASSERT_THAT(bench.plans[0].start(), SizeIs(1));
  EXPECT_EQ(bench.plans[0].start(0).sequence(), 2u);
}

TEST(Scheduler, PlansAStepForReleasesAloneAndNoneForNothing) {
  Bench bench(kLimits, NewGroup(2));
  EXPECT_EQ(bench.scheduler.PlanStep(), std::nullopt);
  bench.Add(1, 10);
  bench.Run();
  bench.scheduler.Remove(SequenceId(1));
  ASSERT_NE(bench.scheduler.PlanStep(), std::nullopt);
  EXPECT_EQ(bench.scheduler.PlanStep(), std::nullopt);
}

TEST(Scheduler, SaysNothingOfASequenceTheOwnerNeverHeardOf) {
  Bench bench;
  bench.Add(1, 10);
  bench.scheduler.Remove(SequenceId(1));
  EXPECT_EQ(bench.scheduler.PlanStep(), std::nullopt);
  EXPECT_EQ(bench.scheduler.group()->kv_blocks_used(), 0u);
}

TEST(Scheduler, InTheNextEpochSequencesGoOnWhereTheirStateIs) {
  Bench bench(kLimits, NewGroup(2));
  for (uint64_t id = 1; id <= 2; ++id) bench.Add(id, 20);
  for (int step = 0; step < 4; ++step) bench.Run();
  ASSERT_EQ(bench.scheduler.Find(SequenceId(2))->computed(), 22);
  ASSERT_NE(bench.scheduler.PlanStep(), std::nullopt);  // under way when the epoch ends: it never happened
  bench.scheduler.EndEpoch();
  std::vector<Group::Worker> members(2, NewGroup(1).worker(0));
  members[0].id = WorkerId(7);
  members[1].id = WorkerId(2);
  const Scheduler::Sequences displaced =
      bench.scheduler.StartEpoch(Group(Epoch(2), kBlockTokens, members), &bench.begins);
  ASSERT_THAT(displaced, SizeIs(1)) << "its owner is gone";
  EXPECT_EQ(displaced[0]->id(), SequenceId(1));
  EXPECT_EQ(displaced[0]->computed(), 0);
  EXPECT_THAT(bench.begins[0].keep(), IsEmpty());
  ASSERT_THAT(bench.begins[1].keep(), SizeIs(1));
  EXPECT_EQ(bench.begins[1].keep(0).sequence(), 2u);
  EXPECT_EQ(bench.begins[1].keep(0).length(), 22u);
  bench.Run();
  EXPECT_THAT(bench.plans[1].start(), IsEmpty()) << "the owner knows it";
  EXPECT_EQ(bench.plans[1].chunks(0).position(), 22u);
  EXPECT_THAT(bench.plans[1].chunks(0).tokens(), ElementsAre(7));
}

TEST(Scheduler, AStartInAVoidStepIsSaidAgain) {
  Bench bench;
  bench.Add(1, 20);
  ASSERT_NE(bench.scheduler.PlanStep(), std::nullopt);
  EXPECT_THAT(bench.scheduler.StartEpoch(NewGroup(1), &bench.begins), IsEmpty());
  EXPECT_THAT(bench.begins[0].keep(), IsEmpty()) << "nothing of it is committed";
  bench.Run();
  EXPECT_THAT(bench.plans[0].start(), SizeIs(1));
  EXPECT_EQ(bench.plans[0].chunks(0).position(), 0u);
}

TEST(Scheduler, WhatAnOwnerHasLostComesOutAndItsMemoryIsFree) {
  Bench bench;
  bench.Add(1, 20);
  bench.Run();
  bench.scheduler.StartEpoch(NewGroup(1), &bench.begins);
  EXPECT_THAT(bench.scheduler.Displace({SequenceId(1), SequenceId(99)}), SizeIs(1));
  EXPECT_EQ(bench.scheduler.group()->kv_blocks_used(), 0u);
  EXPECT_EQ(bench.scheduler.running(), 0);
}

// Decodes that say 7 for ever, in a cluster where rows cost next to nothing.
Bench Repeating(Scheduler::Limits limits, Group group, int sequences) {
  limits.drafts_max = 8;
  limits.sequences_max = 100;
  Bench bench(limits, std::move(group));
  for (int rows = 1; rows <= 64; rows *= 2) {
    for (int i = 0; i < 20; ++i) bench.scheduler.OnStep(rows, absl::Milliseconds(10));
  }
  for (int id = 1; id <= sequences; ++id) bench.Add(static_cast<uint64_t>(id), 2, 700);
  for (int i = 0; i < 40; ++i) bench.Run(8);
  return bench;
}

TEST(Scheduler, DraftsWhatWasSaidBefore) {
  Bench bench = Repeating(kLimits, NewGroup(1), 1);
  EXPECT_THAT(bench.Run(8), ElementsAre(Pair(1, 9)));
  EXPECT_THAT(bench.plans[0].chunks(0).tokens(), testing::Each(7));
  EXPECT_EQ(bench.plans[0].chunks(0).drafts(), 8u);
  EXPECT_TRUE(bench.plans[0].chunks(0).sample());
}

TEST(Scheduler, DraftsGetWhatRowsAreLeft) {
  EXPECT_EQ(Total(Repeating({.step_tokens = 64, .chunk_tokens = 16}, NewGroup(1), 20).Run(0)), 64);
  EXPECT_EQ(Total(Repeating({.step_tokens = 64, .chunk_tokens = 16}, NewGroup(2, 1000, 100, 24), 20).Run(0)), 48);
  Bench bench = Repeating({.step_tokens = 16, .chunk_tokens = 16}, NewGroup(1), 2);
  bench.Add(3, 100);
  const std::map<uint64_t, int> rows = bench.Run(0);
  EXPECT_THAT(rows, ElementsAre(Pair(1, 1), Pair(2, 1), Pair(3, 14))) << "prompts go first";
}

TEST(Scheduler, NoDraftsForWhatWasThereAtACrash) {
  Bench bench = Repeating(kLimits, NewGroup(1), 1);
  bench.scheduler.Find(SequenceId(1))->careful = true;
  EXPECT_THAT(bench.Run(8), ElementsAre(Pair(1, 1)));
}

// Workers with a prefix cache.
Group CachingGroup(int workers = 1) {
  std::vector<Group::Worker> members = NewGroup(workers).workers();
  for (Group::Worker& member : members) {
    member.snapshots_max = 16;
    member.ledger = nullptr;
  }
  return Group(Epoch(1), kBlockTokens, std::move(members));
}

constexpr Scheduler::Limits kLongChunks{.step_tokens = 2000, .chunk_tokens = 1000, .sequences_max = 8};

std::vector<uint32_t> Saves(const v1::StepPlan& plan) {
  std::vector<uint32_t> positions;
  for (const v1::SequenceChunk& chunk : plan.chunks()) {
    for (const v1::SnapshotSave& save : chunk.saves()) positions.push_back(save.position());
  }
  return positions;
}

TEST(Scheduler, SavesTheEndOfAPromptAndPlacesOnTheWay) {
  Bench bench(kLongChunks, CachingGroup());
  bench.Add(1, 600);
  bench.Run();
  EXPECT_THAT(Saves(bench.plans[0]), ElementsAre(256, 512, 592));
  std::vector<uint32_t> in_answer;
  for (int token = 0; token < 40; ++token) {
    bench.Run();
    for (uint32_t position : Saves(bench.plans[0])) in_answer.push_back(position);
  }
  EXPECT_THAT(in_answer, ElementsAre(608, 624, 640));
  EXPECT_EQ(bench.scheduler.group()->worker(0).ledger->snapshots(), 4) << "of the answer the last";
}

TEST(Scheduler, SavesTheEndBeforeTheLastTokenSoThatTheSamePromptFindsIt) {
  Bench bench(kLongChunks, CachingGroup());
  bench.Add(1, 64);
  bench.Run();
  EXPECT_THAT(Saves(bench.plans[0]), ElementsAre(48));
  bench.Add(2, 64);
  EXPECT_THAT(bench.Run(), testing::Contains(Pair(2, 16)));
  ASSERT_THAT(bench.plans[0].start(), SizeIs(1));
  EXPECT_NE(bench.plans[0].start(0).resume(), 0u);
  EXPECT_THAT(bench.plans[0].start(0).resumed_tokens(), SizeIs(48)) << "without a repetition penalty of 1 they count";
  EXPECT_THAT(Saves(bench.plans[0]), IsEmpty());
}

TEST(Scheduler, AVeryLongPromptHasNoMoreSnapshots) {
  Bench bench({.step_tokens = 20000, .chunk_tokens = 20000, .sequences_max = 8}, NewGroup(1));
  bench.scheduler.StartEpoch(Group(Epoch(2), kBlockTokens,
                                   {{.id = WorkerId(9),
                                     .kv_blocks_total = 5000,
                                     .sequences_max = 9,
                                     .step_tokens_max = 20000,
                                     .snapshots_max = 100}}),
                             &bench.begins);
  bench.Add(1, 16000);
  bench.Run();
  EXPECT_THAT(Saves(bench.plans[0]), SizeIs(16));
}

TEST(Scheduler, WhatWantsItsPromptScoredBeginsAtItsBeginning) {
  Bench bench(kLongChunks, CachingGroup());
  bench.Add(1, 64);
  bench.Run();
  v1::GenerateSequenceRequest request;
  for (int i = 0; i < 64; ++i) request.add_prompt(i % 100);
  request.set_max_new_tokens(5);
  request.set_want_prompt_logprobs(true);
  bench.scheduler.Admit(std::make_unique<Sequence>(SequenceId(2), request, absl::UnixEpoch()), 0);
  request.set_want_prompt_logprobs(false);
  request.set_no_cache(true);
  bench.scheduler.Admit(std::make_unique<Sequence>(SequenceId(3), request, absl::UnixEpoch()), 0);
  std::map<uint64_t, int> rows = bench.Run();
  EXPECT_EQ(rows[2], 64);
  EXPECT_EQ(rows[3], 64) << "or takes no part in the cache";
}

TEST(Scheduler, BeginsWithTheSameSnapshotAgainIfTheStepWasVoid) {
  Bench bench(kLongChunks, CachingGroup());
  bench.Add(1, 64);
  bench.Run();
  bench.Add(2, 70);
  const auto lost = bench.scheduler.PlanStep();
  ASSERT_NE(lost, std::nullopt);
  const uint64_t resume = (*lost)[0].start(0).resume();
  EXPECT_NE(resume, 0u);
  EXPECT_THAT(bench.scheduler.StartEpoch(CachingGroup(), &bench.begins), IsEmpty());
  EXPECT_THAT(bench.begins[0].keep_snapshots(), ElementsAre(resume)) << "and nothing that was saved in vain";
  bench.Run();
  EXPECT_EQ(bench.plans[0].start(0).resume(), resume);
  EXPECT_EQ(bench.plans[0].chunks(1).position(), 48u);
  EXPECT_THAT(Saves(bench.plans[0]), ElementsAre(64)) << "again";
}

TEST(Scheduler, AWorkerThatWasNotInTheEpochIsTakenToKnowNothing) {
  Bench bench(kLongChunks, CachingGroup());
  bench.Add(1, 64);
  bench.Run();
  bench.scheduler.Remove(SequenceId(1));
  std::vector<Group::Worker> others = CachingGroup().workers();
  others[0].id = WorkerId(7);
  others[0].ledger = nullptr;
  bench.scheduler.StartEpoch(Group(Epoch(2), kBlockTokens, others), &bench.begins);
  EXPECT_THAT(bench.begins[0].keep_snapshots(), IsEmpty());
  bench.scheduler.StartEpoch(CachingGroup(), &bench.begins);
  EXPECT_THAT(bench.begins[0].keep_snapshots(), IsEmpty());
  bench.Add(2, 64);
  EXPECT_THAT(bench.Run(), ElementsAre(Pair(2, 64)));
}

// The step behind one that is planned now and in flight.
std::optional<std::vector<v1::StepPlan>> FollowUp(Bench& bench) {
  return bench.scheduler.PlanFollowUp(Step(1, *bench.scheduler.PlanStep(), absl::UnixEpoch()));
}

TEST(Scheduler, PlansARowThatFollowsForEachAnswer) {
  Bench bench(kLimits, NewGroup(2));
  bench.Add(1, 10);
  bench.Add(2, 5);
  const auto behind_prefill = FollowUp(bench);
  ASSERT_NE(behind_prefill, std::nullopt) << "behind a prompt that ends, too";
  ASSERT_THAT((*behind_prefill)[0].chunks(), SizeIs(1));
  const v1::SequenceChunk& chunk = (*behind_prefill)[0].chunks(0);
  EXPECT_EQ(chunk.sequence(), 1u);
  EXPECT_EQ(chunk.position(), 10u);
  EXPECT_THAT(chunk.tokens(), IsEmpty());
  EXPECT_TRUE(chunk.follows());
  EXPECT_TRUE(chunk.sample());
  EXPECT_EQ((*behind_prefill)[1].chunks(0).position(), 5u);
  bench.Run();
  EXPECT_EQ((*FollowUp(bench))[0].chunks(0).position(), 11u);
}

TEST(Scheduler, PlansNoFollowUpWhileSomebodyWaitsForRows) {
  Bench bench;
  bench.Add(1, 20);
  EXPECT_EQ(FollowUp(bench), std::nullopt) << "the rest of its prompt is next";
  bench.Run();
  bench.Run();
  const Step step(1, *bench.scheduler.PlanStep(), absl::UnixEpoch());
  EXPECT_NE(bench.scheduler.PlanFollowUp(step), std::nullopt);
  bench.Add(2, 5);
  EXPECT_EQ(bench.scheduler.PlanFollowUp(step), std::nullopt) << "it came while the step ran";
}

TEST(Scheduler, PlansNoFollowUpBehindTheLastToken) {
  Bench bench;
  bench.Add(1, 5, 2);
  bench.Add(2, 5, 3);
  bench.Run();
  const auto plans = FollowUp(bench);
  ASSERT_NE(plans, std::nullopt);
  ASSERT_THAT((*plans)[0].chunks(), SizeIs(1));
  EXPECT_EQ((*plans)[0].chunks(0).sequence(), 2u);
  bench.Run();
  bench.scheduler.Remove(SequenceId(1));
  EXPECT_EQ(FollowUp(bench), std::nullopt) << "nobody goes on";
}

TEST(Scheduler, PlansNoFollowUpForSuspects) {
  Bench bench;
  bench.Add(1, 5);
  bench.Run();
  bench.scheduler.Find(SequenceId(1))->suspicion.OnCrash(0, 10, {});
  EXPECT_EQ(FollowUp(bench), std::nullopt);
}

TEST(Scheduler, AFollowUpReleasesWhatHasEndedMeanwhile) {
  Bench bench;
  bench.Add(1, 5);
  bench.Add(2, 5);
  bench.Run();
  const Step step(1, *bench.scheduler.PlanStep(), absl::UnixEpoch());
  bench.scheduler.Remove(SequenceId(1));
  const auto plans = bench.scheduler.PlanFollowUp(step);
  ASSERT_NE(plans, std::nullopt);
  EXPECT_THAT((*plans)[0].release(), ElementsAre(1));
  EXPECT_THAT((*plans)[0].chunks(), SizeIs(1));
}

TEST(Scheduler, SavesNothingInAFollowUp) {
  Bench bench(kLongChunks, CachingGroup());
  bench.Add(1, 3);
  bench.Run();
  for (int position = 3; position < 40; ++position) {
    EXPECT_EQ(FollowUp(bench) == std::nullopt, (position + 2) % 16 == 0) << position;
    bench.Run();
  }
}

TEST(Scheduler, SeriousSuspectsRunOneAtATime) {
  Bench bench;
  for (uint64_t id = 1; id <= 4; ++id) bench.Add(id, 10);
  for (uint64_t id = 2; id <= 4; ++id) {
    for (int crash = 0; crash < 2; ++crash) bench.scheduler.Find(SequenceId(id))->suspicion.OnCrash(0, 10, {});
  }
  EXPECT_THAT(bench.Run(), ElementsAre(Pair(1, 10), Pair(2, 10)));
  bench.scheduler.Find(SequenceId(2))->suspicion.OnComputed(10);  // cleared
  EXPECT_THAT(bench.Run(), ElementsAre(Pair(1, 1), Pair(2, 1), Pair(3, 10)));
}

TEST(Suspicion, IsClearedByGettingPastTheRowsOfTheCrash) {
  Suspicion suspicion;
  suspicion.OnCrash(100, 16, {});
  suspicion.OnComputed(115);
  suspicion.OnCrash(100, 16, {});
  EXPECT_TRUE(suspicion.serious());
  suspicion.OnComputed(116);
  EXPECT_THAT(suspicion.crashes, testing::IsEmpty());
}

TEST(Suspicion, ACrashOnTheWayBackIsAnotherOne) {
  Suspicion suspicion;
  suspicion.OnCrash(1000, 1, {});
  suspicion.OnCrash(0, 256, {});  // the prefill after the first
  EXPECT_FALSE(suspicion.serious());
}

}  // namespace
}  // namespace braid
