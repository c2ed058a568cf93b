#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "expert_worker/expert_ranks.h"

// The two messages of an MoE layer. Dispatch: rows of hidden states, each sent once to a rank however many of its
// experts live there, and the (row, expert) pairs to compute. Combine: one result row per pair, in the order of the
// dispatch, so it needs no indices.

namespace braid {

struct Pair {
  int32_t row = 0;  // in the message
  int32_t expert = 0;
};

// What one rank asks of another, as it lies in the message.
struct DispatchView {
  std::span<const Pair> pairs;
  int rows = 0;
  const float* x = nullptr;  // (rows, D), aligned to 64 if the message is
};

// What a message must keep to, whoever sent it.
struct DispatchLimits {
  int layer = 0;
  int D = 0;
  int rows_max = 0;
  int pairs_per_row_max = 0;            // K
  int rank = 0;                         // of the receiver
  const ExpertRanks* placed = nullptr;  // of this layer
};

// Bytes of the longest dispatch or combine message of a step of `rows_max` rows.
size_t MoeMessageBytesMax(int rows_max, int K, int D);

// Lays a dispatch message out in `message`: pairs are copied, rows are for the caller to write.
struct DispatchLayout {
  float* x = nullptr;  // (rows, D) to be filled
  size_t bytes = 0;    // of the message
};
// REQUIRES: message has MoeMessageBytesMax bytes for at least these rows and pairs.
DispatchLayout LayOutDispatch(int layer, int rows, int D, std::span<const Pair> pairs, std::span<std::byte> message);
// kDataLoss saying what is wrong with it; nothing in an accepted view is out of bounds. Points into `message`.
absl::StatusOr<DispatchView> ParseDispatch(std::span<const std::byte> message, const DispatchLimits& limits);

// The same for combine: `pairs` rows of D.
DispatchLayout LayOutCombine(int layer, int pairs, int D, std::span<std::byte> message);
absl::StatusOr<const float*> ParseCombine(std::span<const std::byte> message, int layer, int pairs, int D);

}  // namespace braid
