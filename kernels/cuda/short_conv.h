#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "base/dtype.h"

namespace braid::gpu {

// Consecutive positions of one sequence, at consecutive rows.
struct ConvPiece {
  int32_t row = 0, tokens = 0;
  int32_t position = 0;  // of the first token
  int32_t slot = 0;      // of the sequence's columns
};
// A copy of the columns before `position`, which is inside of the piece or at its end, to `saved`.
struct ConvSave {
  int32_t piece = 0, position = 0, slot = 0;
};

// The gated causal depthwise convolution of LFM2, as in kernels/short_conv.h: u = B * X, y = C * sum over taps j,
// ascending, of kernel[j] * u[t - (taps - 1) + j], u being zero before position 0. Afterwards the columns of the last
// `ring` tokens of each piece are stored. Columns are float32 whatever the activations are.
struct ShortConv {
  int T = 0, D = 0, taps = 0, ring = 0;  // D a multiple of 8, taps 3 or 4
  DType type = DType::kBF16;             // of bcx and y: kF32 or kBF16
  const void* bcx = nullptr;             // (T, 3, D): B, C, X
  const float* kernel = nullptr;         // (taps, D)
  const ConvPiece* pieces = nullptr;     // cover rows [0, T) in order
  int piece_count = 0, tokens_max = 0;   // of any piece
  const int32_t* piece_of = nullptr;     // (T); below 0: the row pads the step, its y is left alone
  float* columns = nullptr;              // (slots, ring, D): u of position p at p % ring
  const ConvSave* saves = nullptr;
  int save_count = 0;
  float* saved = nullptr;  // (save slots, taps - 1, D): u of [position - (taps - 1), position), zero before position 0
  void* y = nullptr;       // (T, D)
};
absl::Status Check(const ShortConv& op);

struct ShortConvConfig {
  int rows_per_thread = 0;     // 1 or 8; a thread that goes on to the next row has its columns at hand
  bool store_at_once = false;  // no piece overwrites columns that it reads
};
ShortConvConfig Choose(const ShortConv& op);
// REQUIRES: Check(op).ok(), and store_at_once only where Choose gives it.
cudaError_t Run(const ShortConv& op, const ShortConvConfig& config, cudaStream_t stream);

}  // namespace braid::gpu
