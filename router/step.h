#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/ids.h"
#include "base/planted_bug.h"
#include "braid/v1/worker.pb.h"

namespace braid {

// One step in flight: what each rank was asked and which have answered. It is committed when all have, and only then
// does anything of it count; if the epoch is lost before that, it never happened. Its plan may be sent before the step
// before it is done; then it has begun when that is committed.
class Step {
 public:
  struct Chunk {
    SequenceId sequence;
    int position = 0;
    int rows = 0;
    bool sample = false;
    bool follows = false;
    std::vector<TokenId> drafts;  // the tokens of the last rows that may turn out not to count
    int computed = 0;             // rows that count: without those of drafts until the answer says which were right
    int sure_rows() const { return rows - static_cast<int>(drafts.size()); }
  };

  // `plans` by rank.
  Step(uint64_t number, const std::vector<v1::StepPlan>& plans, absl::Time begun);

  uint64_t number() const { return number_; }
  // When the workers could begin with it, as far as the router knows.
  absl::Time begun() const { return begun_; }
  void set_begun(absl::Time begun) { begun_ = begun; }
  int size() const { return static_cast<int>(ranks_.size()); }
  int rows() const;
  int rows_max() const;  // of a rank
  const std::vector<Chunk>& chunks(int rank) const { return ranks_[static_cast<size_t>(rank)].chunks; }

  // kInvalidArgument, saying what is wrong, if `done` does not answer what the rank was asked: another step, answered
  // before, results for sequences it was not asked about, tokens that do not exist or follow drafts that were wrong,
  // more experts than there are.
  absl::Status OnDone(int rank, v1::StepDone done, const v1::Hello& worker);
  bool answered(int rank) const { return ranks_[static_cast<size_t>(rank)].done.has_value(); }
  bool complete() const { return answers_ == size() || (Planted(Bug::kCommitsBeforeAllAnswered) && answers_ > 0); }
  // REQUIRES: answered(rank).
  const v1::StepDone& done(int rank) const { return *ranks_[static_cast<size_t>(rank)].done; }

 private:
  struct Rank {
    std::vector<Chunk> chunks;
    std::optional<v1::StepDone> done;
    int rows() const;
  };
  // The next of `done.sampled` is not of this chunk, and need not be.
  static bool LeftOut(const Chunk& chunk, const v1::StepDone& done, int next);
  static absl::Status CheckSampled(const Rank& rank, const v1::StepDone& done, uint32_t vocab_size);
  static absl::Status CheckSampled(const Chunk& chunk, const v1::Sampled& sampled, uint32_t vocab_size);
  static absl::Status CheckScores(const Rank& rank, const v1::StepDone& done, uint32_t vocab_size);

  uint64_t number_;
  absl::Time begun_;
  std::vector<Rank> ranks_;
  int answers_ = 0;
};

}  // namespace braid
