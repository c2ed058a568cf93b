#pragma once

// Mistakes on purpose, to test the tests: each is a real one, at the place where it would be made. In every build but
// those of tests/simulation's `simulation_planted`, of nccl_exchange_test and of device_expert_parallel_test
// (BRAID_PLANTED_BUGS) `Planted` is the constant false, and nothing of them is left.

namespace braid {

#define BRAID_FOR_EACH_PLANTED_BUG(PLANT) \
  PLANT(kNone)                            \
  PLANT(kCommitsBeforeAllAnswered)        \
  PLANT(kCountsRowsOfVoidStep)            \
  PLANT(kKeepsAtWrongLength)              \
  PLANT(kIgnoresMissing)                  \
  PLANT(kStepsBeforeBegun)                \
  PLANT(kAcceptsBeforeHolding)            \
  PLANT(kRunsFinishedAgain)               \
  PLANT(kIgnoresCancel)                   \
  PLANT(kReusesEpochs)                    \
  PLANT(kNeverEvictsSilent)               \
  PLANT(kEvictsAfterOwnPause)             \
  PLANT(kForgetsRelease)                  \
  PLANT(kQuarantinesBystanders)           \
  PLANT(kNeverQuarantines)                \
  PLANT(kLosesDisplaced)                  \
  PLANT(kLeavesExpertHomeless)            \
  PLANT(kRepeatsScores)                   \
  PLANT(kNeverFindsCutLink)               \
  PLANT(kNeverBenches)                    \
  PLANT(kRouterTakesAnyEpoch)             \
  PLANT(kWorkerTakesAnyEpoch)             \
  PLANT(kAcceptsStaleBegin)               \
  PLANT(kTakesFramesOfAnyEpoch)           \
  PLANT(kMasksMissingContribution)        \
  PLANT(kForgetsConvRollback)             \
  PLANT(kForgetsCountRollback)            \
  PLANT(kForgetsLengthRollback)           \
  PLANT(kKeepsScoresOfVoidChunk)          \
  PLANT(kForgetsCountsOfTheFirst)         \
  PLANT(kGoesOnBehindAFault)              \
  PLANT(kFollowsAnotherToken)             \
  PLANT(kFollowsDrafts)                   \
  PLANT(kForgetsSecondStepInFlight)       \
  PLANT(kRandomRestartsWithPrefill)       \
  PLANT(kTakesAWrongDraft)                \
  PLANT(kDraftsShareRandomNumber)         \
  PLANT(kForgetsToCountDrafts)            \
  PLANT(kForgetsDraftRollback)            \
  PLANT(kDraftsBeyondTheLimit)            \
  PLANT(kTellsWhatFollowsAStop)           \
  PLANT(kCountsRejectedDrafts)            \
  PLANT(kKeepsBlocksOfReleased)           \
  PLANT(kKeepsForgotten)                  \
  PLANT(kFreesSharedBlocks)               \
  PLANT(kSavesColumnsOfChunkEnd)          \
  PLANT(kKeepsDroppedSnapshots)           \
  PLANT(kForgetsResumedCounts)            \
  PLANT(kKeepsSnapshotsOfVoidStep)        \
  PLANT(kEvictsPinnedSnapshots)           \
  PLANT(kSharesAcrossScopes)              \
  PLANT(kResubmitsWithoutTokens)          \
  PLANT(kDeliversTwice)                   \
  PLANT(kGivesUpWithTheRouter)            \
  PLANT(kForgetsHalfCharacter)            \
  PLANT(kForgetsStopTail)

// Those of the exchange between GPUs, which nccl_exchange_test has to find.
#define BRAID_FOR_EACH_NCCL_BUG(PLANT) \
  PLANT(kSendsAWrongCount)             \
  PLANT(kSendsUngrouped)               \
  PLANT(kForgetsToAwaitTheLaunch)      \
  PLANT(kNobodyWatches)                \
  PLANT(kBelievesWhatWasAborted)

// Those of steps in halves and of such that are run again, which device_expert_parallel_test has to find.
#define BRAID_FOR_EACH_SLOTS_BUG(PLANT) \
  PLANT(kForgetsToAwaitRows)            \
  PLANT(kForgetsToAwaitComputing)       \
  PLANT(kLetsNoVoidStepPass)            \
  PLANT(kCountsAVoidStep)

enum class Bug {
#define BRAID_PLANT(name) name,
  BRAID_FOR_EACH_PLANTED_BUG(BRAID_PLANT) BRAID_FOR_EACH_NCCL_BUG(BRAID_PLANT) BRAID_FOR_EACH_SLOTS_BUG(BRAID_PLANT)
#undef BRAID_PLANT
};

#if defined(BRAID_PLANTED_BUGS)

// Of this thread.
inline thread_local Bug planted_bug = Bug::kNone;
inline bool Planted(Bug bug) { return planted_bug == bug; }

// Takes the bug away for a while.
class WithoutPlantedBug {
 public:
  WithoutPlantedBug() : before_(planted_bug) { planted_bug = Bug::kNone; }
  ~WithoutPlantedBug() { planted_bug = before_; }

 private:
  const Bug before_;
};

#else

constexpr bool Planted(Bug) { return false; }
struct WithoutPlantedBug {
  WithoutPlantedBug() {}
};

#endif

}  // namespace braid
