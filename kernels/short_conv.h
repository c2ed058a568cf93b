#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/thread_pool.h"

namespace braid {

// A copy of the state before `position`: what a sequence needs to go on from there.
struct ConvSave {
  int position = 0;
  float* columns = nullptr;  // (C - 1, D): u of the positions [position - (C - 1), position), zero before position 0
};

// Consecutive positions of one sequence, at consecutive rows.
struct ConvPiece {
  int row = 0, tokens = 0;
  int position = 0;          // of the first token
  float* columns = nullptr;  // (ring, D): u of position p at p % ring; those of the C - 1 positions before are read
  std::span<const ConvSave> saves = {};  // at positions inside of the piece or at its end, not at its beginning
};

// The gated causal depthwise convolution of LFM2: u = B * X, y = C * sum over taps j of kernel[:, j] * u[t - (C-1) +
// j], u being zero before position 0. Afterwards the columns of the last `ring` tokens of each piece are stored.
struct ShortConv {
  int T = 0, D = 0, taps = 0, ring = 0;  // taps at most kTapsMax
  const float* bcx = nullptr;            // (T, 3, D): B, C, X
  const float* kernel = nullptr;  // (taps, D): transposed, so that a tap is contiguous; the last is the current token's
  std::span<const ConvPiece> pieces;  // cover rows [0, T) in order
  float* y = nullptr;                 // (T, D)

  static constexpr int kTapsMax = 16;
};
absl::Status Check(const ShortConv& op);
void Run(const ShortConv& op, ThreadPool& pool);

namespace ref {
void Run(const ShortConv& op);
}

}  // namespace braid
