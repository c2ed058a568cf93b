#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "kernels/attention.h"
#include "model/sequence_states.h"

namespace braid {

// Rows that one step may have, over all its chunks.
inline constexpr int kStepRowsMax = 4096;

// A copy of the conv columns before `position`, to be made on the way: what SequenceStates::Save would make of a
// sequence that had come so far.
struct ColumnsSave {
  int position = 0;
  int32_t copy = 0;
};

// A run of consecutive positions of one sequence in a step: a piece of prefill, or the one token of a decode.
struct Chunk {
  const SequenceCache* cache = nullptr;  // must own blocks for every position below position + tokens.size()
  int position = 0;
  std::span<const TokenId> tokens;  // at least one; each in [0, vocab)
  enum class Logits { kNone, kLast, kAll } logits = Logits::kLast;
  std::span<const ColumnsSave> saves = {};  // inside of the run or at its end; at least C - 1 tokens come before each
  // Not -1: `tokens` is one that only holds the place of what the engine's Draw for the step before gives at this
  // index, and which nobody need know yet. (If that is -1, any token is run.) Engines that draw know how.
  int drawn = -1;
};

// The rows of a step, chunk behind chunk: what every engine lays out first.
struct StepRows {
  std::span<const Chunk> chunks;
  std::vector<int32_t> tokens, positions;
  std::vector<KvRow> kv;        // where each row's keys and values belong
  std::vector<int32_t> wanted;  // the rows somebody wants logits of

  int count() const { return static_cast<int>(tokens.size()); }
  // Takes over; `step` must outlive the use of *this. REQUIRES: Chunk's conditions, at most kStepRowsMax rows.
  void LayOut(std::span<const Chunk> step);
};

}  // namespace braid
