#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "kernels/cuda/matrix.h"

namespace braid::gpu {

// y[r] = W_e x[source[r]] for the rows r of each expert e; with swiglu, of each pair (gate, up) of outputs
// silu(gate) * up. A plain matrix is one expert with all rows.
//
// The bits of an output depend on its row of x and on W alone: every tile adds up the columns in the same order.
//   type kBF16: tensor cores, in steps of 16 columns (of a 32: those with k % 8 below 4, then the others), accumulated
//   in
//     float32. kQ4_0: the products of a block's quants, which bfloat16 holds, and then times the scale: no weight is
//     rounded. kFp8: the bits that the same weights give as kBF16, which holds them.
//   type kFp8: tensor cores of sm_89 and newer. Each block of 128 columns is summed on its own, in steps of 32 columns
//     (of a 64: those with k % 16 below 8, then the others), and times both scales added in float32.
//   type kF32: fused multiply-adds by ascending column, of weights as floats.
struct GroupedLinear {
  int E = 1, N = 0, K = 0;             // K a multiple of 8, N of 8 (of 16 with swiglu)
  DType type = DType::kBF16;           // of x: kBF16, kF32, or kFp8, which wants W so too
  const void* x = nullptr;             // (M, K)
  const int32_t* source = nullptr;     // (rows), the row of x that each row reads; nullptr: row r reads row r
  const int32_t* offsets = nullptr;    // (E + 1), ascending: expert e has the rows [offsets[e], offsets[e + 1])
  int rows_max = 0;                    // no fewer than offsets[E]: what the launch is made for
  Matrix w;                            // (E * N, K), the experts' matrices one behind the other; kF32 only for kF32
  bool swiglu = false;                 // W's outputs: eight gates, their eight ups, eight gates, ...
  DType y_type = DType::kBF16;         // kBF16 or kF32
  void* y = nullptr;                   // (rows, N), or (rows, N / 2) with swiglu
  const uint16_t* x_scales = nullptr;  // (M, Fp8Blocks(K)) for kFp8, as QuantizeRows makes them
  // (E): expert e's matrix is the places[e]-th of those in w, of which there may then be fewer than E, as on a device
  // that holds some of the experts, in any order. Not read for an expert without rows. nullptr: it is the e-th.
  const int32_t* places = nullptr;
};
absl::Status Check(const GroupedLinear& op);

struct GroupedLinearConfig {
  static constexpr int kWideRows = 128;
  // In each row of FP8 that wide tiles take: they have a row's scales in shared memory, of which a block has 99 KB on
  // GPUs of 8.6 and 8.9.
  static constexpr int kWideBlocksMax = 106;
  int tile_rows = 0;  // 16, 64 or kWideRows; the last for x and weights in BF16 or FP8 only
};
// By the rows that an expert has on average: a tile should hold them all, so that its weights are read once, and few
// that nobody needs. Wide tiles if there are enough of them to keep a GPU busy.
GroupedLinearConfig Choose(const GroupedLinear& op);
cudaError_t Run(const GroupedLinear& op, const GroupedLinearConfig& config, cudaStream_t stream);

// Run's parts: by op.type, and RunMma's for wide tiles.
cudaError_t RunMma(const GroupedLinear& op, const GroupedLinearConfig& config, cudaStream_t stream);
cudaError_t RunFp8(const GroupedLinear& op, const GroupedLinearConfig& config, cudaStream_t stream);
cudaError_t RunWide(const GroupedLinear& op, cudaStream_t stream);
cudaError_t RunFma(const GroupedLinear& op, cudaStream_t stream);

}  // namespace braid::gpu
