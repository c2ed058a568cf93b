#include "kernels/cuda/device.h"
#include "kernels/cuda/head_dim.h"
#include "kernels/cuda/kv_rows.h"
#include "kernels/cuda/numbers.h"
#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/reduce.h"

// Attention in float32, and the merge of spans.
//
// A block holds a piece of keys and values in shared memory, for all the query heads of a key head and the rows of a
// tile. From there on warps are on their own: each has kRowsPerWarp (row, head) pairs, from scores to weighted sums.
// For scores a lane has two positions of the piece, for sums it has kEach dimensions.

namespace braid::gpu {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kPiece = PagedAttention::kPieceTokens, kSpan = PagedAttention::kSpanTokens;
static_assert(kPiece == 64, "a lane has two positions");

// What is known of a row after some of its context: the largest score, the sum of 2^(score - max), and a lane's share
// of the sum of values with these weights.
template <int kEach>
struct Softmax {
  float max = -INFINITY, sum = 0;
  Floats<kEach> values = {};

  __device__ void Rescale(float new_max) {
    const float scale = exp2f(max - new_max);
    max = new_max;
    sum *= scale;
#pragma unroll
    for (int i = 0; i < kEach; ++i) values[i] *= scale;
  }
  // Adds what is known of the next span.
  __device__ void Merge(Softmax next) {
    const float new_max = fmaxf(max, next.max);
    Rescale(new_max);
    next.Rescale(new_max);
    sum += next.sum;
#pragma unroll
    for (int i = 0; i < kEach; ++i) values[i] += next.values[i];
  }
};

// Partial results of (row of a tile, head, span): values, then max and sum.
template <int kHeadDim>
__device__ float* PartialAt(const PagedAttention& op, int64_t tile, int row, int head, int span) {
  return op.partials + (((tile * op.tile_rows + row) * op.heads + head) * op.spans + span) * (kHeadDim + 2);
}

template <int kEach, typename T>
__device__ void StoreResult(const Softmax<kEach>& row, const PagedAttention& op, int64_t t, int head, int lane) {
  Floats<kEach> y;
#pragma unroll
  for (int i = 0; i < kEach; ++i) y[i] = row.values[i] / row.sum + 0.0f;  // one zero, not two
  StoreFloats(static_cast<T*>(op.y) + ((t * op.heads + head) * 32 + lane) * kEach, y);
}

template <int kHeadDim>
struct Piece {
  // A row of keys is read by one lane, 16 bytes at a time: eight lanes in 128 different bytes, with this padding.
  static constexpr int kKeyStride = kHeadDim + 8;

  __nv_bfloat16* keys;    // (kPiece, kKeyStride)
  __nv_bfloat16* values;  // (kPiece, kHeadDim)

  // Positions [begin, begin + count); the rest stays as it was and is not used.
  __device__ void Load(const KvArena& arena, const int32_t* blocks, int kv_head, int begin, int count) const {
    constexpr int kVectors = kHeadDim / 8;
    for (int i = threadIdx.x; i < count * kVectors; i += kThreads) {
      const int row = i / kVectors, d = i % kVectors * 8;
      const __nv_bfloat16* key = KeyAt(arena, blocks, begin + row, kv_head) + d;
      StoreVec<8>(keys + row * kKeyStride + d, LoadVec<8>(key));
      StoreVec<8>(values + row * kHeadDim + d, LoadVec<8>(key + KvArena::kBlockTokens * kHeadDim));
    }
  }

  // scores[i][h] = queries[i] . keys[lane + 32 h]
  template <int kRows>
  __device__ void Score(const float* queries, int lane, float (&scores)[kRows][2]) const {
    float odd[kRows][2] = {};
#pragma unroll
    for (int d = 0; d < kHeadDim; d += 8) {
      const Floats<8> low = LoadFloats<8>(keys + lane * kKeyStride + d);
      const Floats<8> high = LoadFloats<8>(keys + (lane + 32) * kKeyStride + d);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const Floats<8> q = LoadFloats<8>(queries + i * kHeadDim + d);
#pragma unroll
        for (int j = 0; j < 8; j += 2) {
          scores[i][0] = fmaf(q[j], low[j], scores[i][0]);
          scores[i][1] = fmaf(q[j], high[j], scores[i][1]);
          odd[i][0] = fmaf(q[j + 1], low[j + 1], odd[i][0]);
          odd[i][1] = fmaf(q[j + 1], high[j + 1], odd[i][1]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) scores[i][0] += odd[i][0], scores[i][1] += odd[i][1];
  }
};

// How many blocks must fit into an SM's registers. Decode waits for memory and wants many; what a tile of prefill keeps
// in registers must not spill.
constexpr int BlocksPerSm(int head_dim, int rows_per_warp) {
  return rows_per_warp == 4 ? 4 : rows_per_warp == 2 || head_dim == 128 ? 5 : 8;
}

// Grid: tiles, key heads, and spans if the spans of a tile are split.
template <int kHeadDim, int kRowsPerWarp>
__global__ void __launch_bounds__(kThreads, BlocksPerSm(kHeadDim, kRowsPerWarp))
    PagedAttentionKernel(PagedAttention op) {
  LAUNCH_BOUNDS(kThreads);
  constexpr int kEach = kHeadDim / 32, kRows = kWarps * kRowsPerWarp;
  SHARED_ARRAY(__nv_bfloat16, keys, kPiece * Piece<kHeadDim>::kKeyStride);
  SHARED_ARRAY(__nv_bfloat16, values, kPiece * kHeadDim);
  SHARED_ARRAY(float, queries, kRows* kHeadDim);
  SHARED_ARRAY(float, weights, kRows* kPiece);
  const Piece<kHeadDim> piece{keys, values};
  const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * kRowsPerWarp;
  const int kv_head = blockIdx.y, group = op.heads / op.kv_heads;
  const AttentionTile tile =
      op.tiles == nullptr ? AttentionTile{static_cast<int32_t>(blockIdx.x), 1} : op.tiles[blockIdx.x];
  const int rows = tile.rows * group;
  const int32_t* blocks = BlocksOf(op.rows, tile.first_row);
  int last = -1;
  for (int t = 0; t < tile.rows; ++t) last = max(last, op.rows.positions[tile.first_row + t]);

  // Scores are to the base 2.
  const float scale = 1.44269504f / sqrtf(static_cast<float>(kHeadDim));
  for (int i = threadIdx.x; i < rows * kHeadDim; i += kThreads) {
    const int64_t t = tile.first_row + i / kHeadDim / group, head = kv_head * group + i / kHeadDim % group;
    queries[i] = static_cast<const float*>(op.q)[(t * op.heads + head) * kHeadDim + i % kHeadDim] * scale;
  }

  int positions[kRowsPerWarp];
  Softmax<kEach> span_rows[kRowsPerWarp], all_rows[kRowsPerWarp];
#pragma unroll
  for (int i = 0; i < kRowsPerWarp; ++i)
    positions[i] = first + i < rows ? op.rows.positions[tile.first_row + (first + i) / group] : -1;

  const bool split = op.partials != nullptr;
  const int begin = split ? blockIdx.z * kSpan : 0, end = split ? min(last + 1, begin + kSpan) : last + 1;
  for (int at = begin; at < end; at += kPiece) {
    __syncthreads();  // nobody reads the piece before
    piece.Load(op.arena, blocks, kv_head, at, min(kPiece, end - at));
    __syncthreads();
    int seen[kRowsPerWarp];  // positions of the piece that a row sees
    int most = 0, least = kPiece;
#pragma unroll
    for (int i = 0; i < kRowsPerWarp; ++i) {
      seen[i] = max(0, min(kPiece, positions[i] + 1 - at));
      most = max(most, seen[i]), least = min(least, seen[i]);
    }
    if (most > 0) {
      float scores[kRowsPerWarp][2] = {};
      piece.Score(queries + first * kHeadDim, lane, scores);
#pragma unroll
      for (int i = 0; i < kRowsPerWarp; ++i) {
        Softmax<kEach>& row = span_rows[i];
        const bool low = lane < seen[i], high = lane + 32 < seen[i];
        const float max = WarpMax(fmaxf(low ? scores[i][0] : -INFINITY, high ? scores[i][1] : -INFINITY));
        if (seen[i] > 0) row.Rescale(fmaxf(row.max, max));
        const float w_low = low ? exp2f(scores[i][0] - row.max) : 0, w_high = high ? exp2f(scores[i][1] - row.max) : 0;
        row.sum += WarpSum(w_low + w_high);
        weights[(first + i) * kPiece + lane] = w_low;
        weights[(first + i) * kPiece + lane + 32] = w_high;
      }
      __syncwarp();
      const auto add = [&](int j, bool all) {
        const Floats<kEach> value = LoadFloats<kEach>(piece.values + j * kHeadDim + lane * kEach);
#pragma unroll
        for (int i = 0; i < kRowsPerWarp; ++i) {
          if (!all && j >= seen[i]) continue;
          const float w = weights[(first + i) * kPiece + j];
#pragma unroll
          for (int d = 0; d < kEach; ++d) span_rows[i].values[d] = fmaf(w, value[d], span_rows[i].values[d]);
        }
      };
#pragma unroll 4
      for (int j = 0; j < least; ++j) add(j, true);
      for (int j = least; j < most; ++j) add(j, false);
    }
    if (!split && ((at + kPiece) % kSpan == 0 || at + kPiece >= end)) {
#pragma unroll
      for (int i = 0; i < kRowsPerWarp; ++i) {
        if (positions[i] < at / kSpan * kSpan) continue;
        if (at < kSpan) {
          all_rows[i] = span_rows[i];
        } else {
          all_rows[i].Merge(span_rows[i]);
        }
        span_rows[i] = Softmax<kEach>();
      }
    }
  }

#pragma unroll
  for (int i = 0; i < kRowsPerWarp; ++i) {
    if (positions[i] < begin) continue;  // sees nothing of the span, pads a step, or is no row
    const int64_t t = tile.first_row + (first + i) / group;
    const int head = kv_head * group + (first + i) % group;
    if (split) {
      float* partial = PartialAt<kHeadDim>(op, blockIdx.x, (first + i) / group, head, blockIdx.z);
      // Two numbers at a time is all that the odd rows of partials are aligned to.
#pragma unroll
      for (int d = 0; d < kEach; ++d) partial[lane * kEach + d] = span_rows[i].values[d];
      if (lane == 0) partial[kHeadDim] = span_rows[i].max, partial[kHeadDim + 1] = span_rows[i].sum;
    } else {
      StoreResult<kEach, float>(all_rows[i], op, t, head, lane);
    }
  }
}

// A warp merges the spans of one head of one row. Grid: tiles, heads, rows of a tile.
template <int kHeadDim, typename T>
__global__ void __launch_bounds__(kThreads) MergeSpansKernel(PagedAttention op) {
  LAUNCH_BOUNDS(kThreads);
  constexpr int kEach = kHeadDim / 32;
  const int lane = threadIdx.x % 32, head = blockIdx.y * kWarps + threadIdx.x / 32;
  const int tile_row = blockIdx.z;
  const AttentionTile tile =
      op.tiles == nullptr ? AttentionTile{static_cast<int32_t>(blockIdx.x), 1} : op.tiles[blockIdx.x];
  if (head >= op.heads || tile_row >= tile.rows) return;
  const int64_t t = tile.first_row + tile_row;
  const int position = op.rows.positions[t];
  if (position < 0) return;  // pads a step
  Softmax<kEach> row;
  for (int span = 0; span * kSpan <= position; ++span) {
    const float* partial = PartialAt<kHeadDim>(op, blockIdx.x, tile_row, head, span);
    Softmax<kEach> next;
#pragma unroll
    for (int d = 0; d < kEach; ++d) next.values[d] = partial[lane * kEach + d];
    next.max = partial[kHeadDim], next.sum = partial[kHeadDim + 1];
    if (span == 0) {
      row = next;
    } else {
      row.Merge(next);
    }
  }
  StoreResult<kEach, T>(row, op, t, head, lane);
}

template <int kHeadDim>
cudaError_t RunSpans(const PagedAttention& op, cudaStream_t stream) {
  const int pairs = op.tile_rows * (op.heads / op.kv_heads);
  const auto kernel = pairs > 2 * kWarps ? PagedAttentionKernel<kHeadDim, 4>
                      : pairs > kWarps   ? PagedAttentionKernel<kHeadDim, 2>
                                         : PagedAttentionKernel<kHeadDim, 1>;
  const dim3 grid(op.tile_count, op.kv_heads, op.partials == nullptr ? 1 : op.spans);
  return Launch(kernel, grid, dim3(kThreads), 0, stream, op);
}

template <int kHeadDim>
cudaError_t RunFor(const PagedAttention& op, cudaStream_t stream) {
  const bool mma = op.type == DType::kBF16;
  const cudaError_t error = mma ? RunSpansMma(op, stream) : RunSpans<kHeadDim>(op, stream);
  if (error != cudaSuccess || op.partials == nullptr) return error;
  const auto merge = mma ? MergeSpansKernel<kHeadDim, __nv_bfloat16> : MergeSpansKernel<kHeadDim, float>;
  const dim3 grid(op.tile_count, (op.heads + kWarps - 1) / kWarps, op.tile_rows);
  return Launch(merge, grid, dim3(kThreads), 0, stream, op);
}

}  // namespace

cudaError_t Run(const PagedAttention& op, cudaStream_t stream) {
  PagedAttention tiled = op;
  if (op.tiles == nullptr) tiled.tile_count = op.T, tiled.tile_rows = 1;
  if (op.T == 0 || tiled.tile_count == 0) return cudaSuccess;
  return WithHeadDim(op.head_dim, [&](auto head_dim) { return RunFor<head_dim>(tiled, stream); });
}

}  // namespace braid::gpu
