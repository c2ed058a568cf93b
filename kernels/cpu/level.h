#pragma once

#include <algorithm>
#include <optional>
#include <string_view>
#include <vector>

#include "kernels/attention.h"
#include "kernels/linear.h"
#include "kernels/panels.h"
#include "kernels/quant_rows.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/short_conv.h"
#include "kernels/softmax.h"
#include "kernels/weighted_sum.h"

// The instruction sets that the heavy loops are compiled for. All give the same bits; they differ in speed only.

namespace braid {

// A linear op on a matrix in rows, whose x is padded: it has rows of `ldx` floats, ldx a multiple of 8, zeros from K
// on.
struct LinearTask {
  Linear op;
  const float* x = nullptr;
  int ldx = 0;
};

// Rows times one panel.
struct PanelTask {
  DType type = DType::kQ4_0;
  int blocks = 0;  // K / 32
  const std::byte* panel = nullptr;
  int R = 0;
  const QuantBlock* const* rows = nullptr;  // (R)
  float* y = nullptr;                       // (R, 32), rows y_stride apart
  int64_t y_stride = 0;
};

// What attention knows of a row while it walks: its sixteen partial sums, its maximum and its y.
inline int64_t AttentionPartialFloats(int rows, int head_dim) {
  return int64_t{rows} * (KvArena::RowDim(head_dim) + 16 + 1);
}
// Rows that a tile may have, counted once per key head: whole sixes that with their dimensions fit the stack and, for
// common sizes, a first cache.
inline constexpr int kAttentionTileRowsMax = 48;
inline constexpr int kAttentionTileFloats = 6 * Attention::kHeadDimMax;
inline int AttentionTileRows(int head_dim) {
  return std::min(kAttentionTileRowsMax, kAttentionTileFloats / KvArena::RowDim(head_dim) / 6 * 6);
}

// An int8 of a KV arena, once widened, is this many times as large: it stays at the top of its word.
inline constexpr float kInt8PartUnit = 0x1p24f;

struct CpuLevel {
  std::string_view name;
  bool (*supported)();
  // Outputs [begin, end) of all rows.
  void (*linear)(const LinearTask& task, int begin, int end);
  void (*panel)(const PanelTask& task);
  void (*quantize)(const float* x, int64_t blocks, QuantBlock* q);
  // silu(gate) * up of R rows of 32, quantised: block r of the result goes to q[r * stride].
  void (*swiglu_quantize)(const float* gate, const float* up, int R, QuantBlock* q, int64_t stride);
  // One row of the op.
  void (*norm_row)(const RmsNorm& op, int t);
  void (*head_norm_rope_row)(const HeadNormRope& op, int t);
  void (*convolve_row)(const ShortConv& op, const ConvPiece& piece, int row);
  void (*weighted_sum_row)(const WeightedSum& op, int t);
  // An item over all of the context, to y.
  void (*attend)(const Attention& op, const AttentionItem& item);
  // An item over one span, to its partial result of AttentionPartialFloats.
  void (*attend_span)(const Attention& op, const AttentionItem& item);
  // The partial results of all spans of an item's context, which lie behind `partial` in ascending order, to y.
  void (*merge_spans)(const Attention& op, const AttentionItem& item);
  // softmax.h
  bool (*block_maxima)(const float* x, int n, float* maxima);
  double (*weigh)(const SoftmaxWeights& weights, const float* x, int n, float* w);
  void (*add_to_buckets)(const SoftmaxWeights& weights, const LogitBuckets& buckets, const float* x, int n,
                         BucketSums* sums);
  int (*find_in_range)(const float* x, int n, float low, float high, int32_t* found);
};

// Those that this machine has, the plainest first: portable, avx2 (with FMA and F16C), avx2vnni (AVX-VNNI), avx512 (F,
// BW, DQ, VL, VNNI).
std::vector<const CpuLevel*> SupportedCpuLevels();

// The fastest level of this machine, or what the environment variable BRAID_CPU_LEVEL names. An unknown or unsupported
// name ends the process: it is the operator's explicit wish. Decided once.
const CpuLevel& ActiveCpuLevel();

// For tests and benchmarks: `level` is the active one until the scope ends. Not thread-safe.
class ScopedCpuLevel {
 public:
  explicit ScopedCpuLevel(const CpuLevel* level);
  ~ScopedCpuLevel();
  ScopedCpuLevel(const ScopedCpuLevel&) = delete;

 private:
  const CpuLevel* before_;
};

}  // namespace braid
