#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "expert_worker/expert_ranks.h"

namespace braid::gpu {

// How many results the slots of a step of decoding have room for. Slots travel as a whole, so room for the worst case
// (all experts of all rows at one rank) is mostly air: of 8 ranks three quarters of it. So there is room for a multiple
// of what comes to the fullest rank if all experts are chosen alike, and for chance. A step that does not fit is void,
// as all its ranks learn, and is run again; the multiple is doubled then, so that experts which stay popular cost one
// step and not each one, and halved again after many steps that fit.
//
// Where the worst case is hardly more, slots have room for that: such a step is never run again.
//
// All ranks have the same answers: they depend on what is equal on all, and on which of the epoch's steps did not fit.
// Of the last step not even on that, until it is known: the one behind it, which some ranks begin before and some do
// not, has the same room on all if the last one fits; and if it does not, is counted anew on all.
// Pure; thread-compatible.
class SlotRoom {
 public:
  struct Options {
    double multiple = 2;        // of what comes if experts are chosen alike: at the least, and at first
    double deviations = 6;      // of chance, beyond that: one rank and layer of a billion has more
    int more = 8;               // for few rows, of which chance has more to say
    int steps_to_halve = 1024;  // one step run again of so many is nothing
    // What may be carried in vain, to all others in a layer: 12 us of an H100's NVLink, a quarter of a millisecond of
    // a step, as much as it costs to run one of twenty again.
    size_t spare_bytes = 4 << 20;
  };

  // `K` experts to a row, a result of each being row_bytes.
  SlotRoom(const Options& options, int K, size_t row_bytes, int ranks, std::span<const ExpertRanks> placement);

  // What a slot for so many rows has room for, in the next step. REQUIRES: rows > 0.
  int Results(int rows) const;
  // The most that so many rows can ask of one rank.
  int ResultsMax(int rows) const { return rows * results_of_row_; }
  // Whether whatever comes fits.
  bool FitsAll(int rows) const { return Results(rows) == ResultsMax(rows); }

  // A step in slots has begun.
  void CountStep();
  // It does not fit: the one that was counted last, or if `another_behind` the one before, and the last one is as if it
  // had never been counted.
  void DidNotFit(bool another_behind = false);

 private:
  int Expected(int rows) const;

  const Options options_;
  const int K_;
  const size_t bytes_of_result_;  // to all others
  int results_of_row_ = 1;
  double share_ = 0;  // of experts, at the rank that has most of a layer
  struct Trend {
    double multiple;
    int calm_steps = 0;
  };
  Trend trend_, before_;  // now, and before the last step was counted
};

}  // namespace braid::gpu
