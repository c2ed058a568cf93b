#include "kernels/cuda/device.h"
#include "kernels/cuda/head_dim.h"
#include "kernels/cuda/kv_rows.h"
#include "kernels/cuda/numbers.h"
#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/ptx_async_copy.h"
#include "kernels/cuda/ptx_mma.h"

// Attention in bfloat16, on tensor cores. A warp has sixteen (row, head) pairs, whatever a step has for it: in decode
// most are empty, which costs nothing that memory would not have made it wait for. So prefill and decode are the same
// arithmetic.
//
// Lane 4 g + t has of rows g and g + 8 the columns 2 t and 2 t + 1 of each 16 x 8 result. Scores as they come out of
// one product are the left operand of the next one, once rounded to weights in bfloat16; the sum of weights is of the
// rounded ones.

namespace braid::gpu {
namespace {

constexpr int kPiece = PagedAttention::kPieceTokens, kSpan = PagedAttention::kSpanTokens;
constexpr int kPieceTiles = kPiece / 8;

// What is known of rows g and g + 8 (i = 0, 1) after some of their context; in a span, the sum is the lane's part of
// it.
template <int kHeadDim>
struct RowPair {
  float max[2], sum[2];
  float values[kHeadDim / 8][4];  // [d][2 i], [d][2 i + 1]: columns 8 d + 2 t and the next

  __device__ void Clear() {
#pragma unroll
    for (int i = 0; i < 2; ++i) max[i] = -INFINITY, sum[i] = 0;
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d) {
#pragma unroll
      for (int e = 0; e < 4; ++e) values[d][e] = 0;
    }
  }
  __device__ void Rescale(int i, float new_max) {
    const float scale = exp2f(max[i] - new_max);
    max[i] = new_max;
    sum[i] *= scale;
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d) values[d][2 * i] *= scale, values[d][2 * i + 1] *= scale;
  }
  // Adds what is known of the next span to row i. The first span is taken as it is.
  __device__ void Merge(int i, RowPair& next, bool first) {
    if (first) {
      max[i] = next.max[i], sum[i] = next.sum[i];
    } else {
      const float new_max = fmaxf(max[i], next.max[i]);
      Rescale(i, new_max);
      next.Rescale(i, new_max);
      sum[i] += next.sum[i];
    }
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d) {
#pragma unroll
      for (int e = 2 * i; e < 2 * i + 2; ++e)
        values[d][e] = first ? next.values[d][e] : values[d][e] + next.values[d][e];
    }
  }
};

// Over the four lanes that share a row.
__device__ inline float QuadMax(float value) {
  value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
  return fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
}
__device__ inline float QuadSum(float value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  return value + __shfl_xor_sync(kAllLanes, value, 2);
}

// Two numbers rounded to bfloat16, and what they then are.
__device__ inline uint32_t PackPair(float& low, float& high) {
  const Vec<__nv_bfloat16, 2> pair{{__float2bfloat16_rn(low), __float2bfloat16_rn(high)}};
  low = __bfloat162float(pair[0]), high = __bfloat162float(pair[1]);
  uint32_t word;
  memcpy(&word, &pair, sizeof word);
  return word;
}

// A piece of keys and values in shared memory. Its rows are padded so that the eight that a matrix is loaded from lie
// in different banks.
template <int kHeadDim, int kThreads>
struct SharedPiece {
  static constexpr int kStride = kHeadDim + 8;
  static constexpr int kNumbers = 2 * kPiece * kStride;
  __nv_bfloat16* keys;

  __device__ __nv_bfloat16* values() const { return keys + kPiece * kStride; }

  // Starts to load positions [begin, end), end being at most a piece further; zeros for the rest of the piece.
  __device__ void StartLoad(const KvArena& arena, const int32_t* blocks, int kv_head, int begin, int end) const {
    constexpr int kVectors = kHeadDim / 8;
    for (int i = threadIdx.x; i < kPiece * kVectors; i += kThreads) {
      const int row = i / kVectors, d = i % kVectors * 8;
      const bool valid = begin + row < end;
      const __nv_bfloat16* key = KeyAt(arena, blocks, valid ? begin + row : begin, kv_head) + d;
      CopyAsync<16>(keys + row * kStride + d, key, valid);
      CopyAsync<16>(values() + row * kStride + d, key + KvArena::kBlockTokens * kHeadDim, valid);
    }
  }

  // scores[n] += queries x keys [8 n, 8 n + 8)
  __device__ void Score(const uint32_t (&queries)[kHeadDim / 16][4], int lane, float (&scores)[kPieceTiles][4]) const {
    // Lane 8 i + r: key r of the upper two matrices' tile or the lower two's, its lower or upper eight dimensions.
    const __nv_bfloat16* row = keys + (lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
#pragma unroll
      for (int n = 0; n < kPieceTiles; n += 2) {
        uint32_t b[4];
        LoadMatrices(b, row + n * 8 * kStride + k * 16);
        MmaBf16(scores[n], queries[k], {b[0], b[1]});
        MmaBf16(scores[n + 1], queries[k], {b[2], b[3]});
      }
    }
  }

  // values[d] += weights x values, columns [8 d, 8 d + 8)
  __device__ void AddWeighted(const uint32_t (&weights)[kPiece / 16][4], int lane,
                              float (&sums)[kHeadDim / 8][4]) const {
    // Lane 8 i + r: position r of the lower or upper eight, of the first or second eight dimensions.
    const __nv_bfloat16* row = values() + lane % 16 * kStride + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < kPiece / 16; ++k) {
#pragma unroll
      for (int d = 0; d < kHeadDim / 8; d += 2) {
        uint32_t b[4];
        LoadMatricesTransposed(b, row + k * 16 * kStride + d * 8);
        MmaBf16(sums[d], weights[k], {b[0], b[1]});
        MmaBf16(sums[d + 1], weights[k], {b[2], b[3]});
      }
    }
  }
};

// One piece, of which rows g and g + 8 see the first seen[0] and seen[1] positions.
template <int kHeadDim, int kThreads>
__device__ void Attend(const SharedPiece<kHeadDim, kThreads>& piece, const uint32_t (&queries)[kHeadDim / 16][4],
                       const int (&seen)[2], int lane, RowPair<kHeadDim>& rows) {
  // Scores are to the base 2.
  const float scale = 1.44269504f / sqrtf(static_cast<float>(kHeadDim));
  float scores[kPieceTiles][4] = {};
  piece.Score(queries, lane, scores);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float max = -INFINITY;
#pragma unroll
    for (int n = 0; n < kPieceTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = scores[n][2 * i + e];
        score *= scale;
        if (n * 8 + lane % 4 * 2 + e < seen[i]) max = fmaxf(max, score);
      }
    }
    max = QuadMax(max);
    if (seen[i] > 0) rows.Rescale(i, fmaxf(rows.max[i], max));
  }
  uint32_t weights[kPiece / 16][4];
#pragma unroll
  for (int n = 0; n < kPieceTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float w[2];
#pragma unroll
      for (int e = 0; e < 2; ++e)
        w[e] = n * 8 + lane % 4 * 2 + e < seen[i] ? exp2f(scores[n][2 * i + e] - rows.max[i]) : 0;
      weights[n / 2][n % 2 * 2 + i] = PackPair(w[0], w[1]);
      rows.sum[i] += w[0] + w[1];
    }
  }
  // Weights of zero leave a sum as it is, but for the sign of a zero: a row that sees nothing of a piece is what it
  // was.
  piece.AddWeighted(weights, lane, rows.values);
}

// Grid: tiles, key heads, and spans if the spans of a tile are split.
template <int kHeadDim, int kWarps, bool kSplit>
__global__ void __launch_bounds__(32 * kWarps, 8 / kWarps) MmaAttentionKernel(PagedAttention op) {
  LAUNCH_BOUNDS(32 * kWarps);
  using Piece = SharedPiece<kHeadDim, 32 * kWarps>;
  constexpr int kStages = kHeadDim <= 64 ? 2 : 1;  // pieces in shared memory, one of which is on its way
  SHARED_ARRAY(__nv_bfloat16, shared, kStages * Piece::kNumbers);
  const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16;
  const int kv_head = blockIdx.y, group = op.heads / op.kv_heads;
  const AttentionTile tile =
      op.tiles == nullptr ? AttentionTile{static_cast<int32_t>(blockIdx.x), 1} : op.tiles[blockIdx.x];
  const int32_t* blocks = BlocksOf(op.rows, tile.first_row);
  int last = -1;
  for (int t = 0; t < tile.rows; ++t) last = max(last, op.rows.positions[tile.first_row + t]);

  // The number, among all (row, head) pairs, of the lane's pair i: made again when it is needed, for want of registers.
  const auto pair_of = [&](int i) {
    const int row = first + i * 8 + lane / 4;
    return static_cast<int64_t>(tile.first_row + row / group) * op.heads + kv_head * group + row % group;
  };
  int positions[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = first + i * 8 + lane / 4;
    positions[i] = row < tile.rows * group ? op.rows.positions[tile.first_row + row / group] : -1;
  }
  uint32_t queries[kHeadDim / 16][4] = {};
  const auto load_queries = [&] {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (positions[i] < 0) continue;
      const __nv_bfloat16* q = static_cast<const __nv_bfloat16*>(op.q) + pair_of(i) * kHeadDim + lane % 4 * 2;
#pragma unroll
      for (int k = 0; k < kHeadDim / 8; ++k) {
        const Vec<__nv_bfloat16, 2> two = LoadVec<2>(q + k * 8);
        memcpy(&queries[k / 2][k % 2 * 2 + i], &two, sizeof two);
      }
    }
  };
  constexpr bool kHoldQueries = kHeadDim <= 64;  // else there are no registers for them from piece to piece
  if (kHoldQueries) load_queries();

  RowPair<kHeadDim> span_rows, all_rows;
  span_rows.Clear();
  all_rows.Clear();
  const int begin = kSplit ? blockIdx.z * kSpan : 0, end = kSplit ? min(last + 1, begin + kSpan) : last + 1;
  int stage = 0;
  if (kStages > 1 && begin < end) Piece{shared}.StartLoad(op.arena, blocks, kv_head, begin, end);
  CopyAsyncCommit();
  for (int at = begin; at < end; at += kPiece) {
    const Piece piece{shared + stage * Piece::kNumbers};
    if constexpr (kStages > 1) {
      stage = 1 - stage;
      if (at + kPiece < end)
        Piece{shared + stage * Piece::kNumbers}.StartLoad(op.arena, blocks, kv_head, at + kPiece, end);
      CopyAsyncCommit();
      CopyAsyncWait<1>();
    } else {
      piece.StartLoad(op.arena, blocks, kv_head, at, end);
      CopyAsyncCommit();
      CopyAsyncWait<0>();
    }
    __syncthreads();
    int seen[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) seen[i] = max(0, min(kPiece, positions[i] + 1 - at));
    if (__any_sync(kAllLanes, seen[0] > 0 || seen[1] > 0)) {
      if (!kHoldQueries) load_queries();
      Attend(piece, queries, seen, lane, span_rows);
    }
    if (!kSplit && ((at + kPiece) % kSpan == 0 || at + kPiece >= end)) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        span_rows.sum[i] = QuadSum(span_rows.sum[i]);
        if (positions[i] >= at / kSpan * kSpan) all_rows.Merge(i, span_rows, at < kSpan);
      }
      span_rows.Clear();
    }
    __syncthreads();  // nobody reads the piece any more
  }

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const RowPair<kHeadDim>& rows = kSplit ? span_rows : all_rows;
    const float sum = kSplit ? QuadSum(rows.sum[i]) : rows.sum[i];
    if (positions[i] < begin) continue;  // sees nothing of the span, pads a step, or is no row
    if constexpr (kSplit) {
      // Partial results lie by tile: as far from the first one of its tile as the pair is.
      const int64_t tiles_pair = pair_of(i) + (int64_t{blockIdx.x} * op.tile_rows - tile.first_row) * op.heads;
      float* partial = op.partials + (tiles_pair * op.spans + blockIdx.z) * (kHeadDim + 2);
#pragma unroll
      for (int d = 0; d < kHeadDim / 8; ++d)
        StoreFloats(partial + d * 8 + lane % 4 * 2, Floats<2>{rows.values[d][2 * i], rows.values[d][2 * i + 1]});
      if (lane % 4 == 0) StoreFloats(partial + kHeadDim, Floats<2>{rows.max[i], sum});
    } else {
      __nv_bfloat16* y = static_cast<__nv_bfloat16*>(op.y) + pair_of(i) * kHeadDim + lane % 4 * 2;
#pragma unroll
      for (int d = 0; d < kHeadDim / 8; ++d)
        StoreFloats(y + d * 8, Floats<2>{rows.values[d][2 * i] / sum + 0.0f, rows.values[d][2 * i + 1] / sum + 0.0f});
    }
  }
}

template <int kHeadDim, bool kSplit>
cudaError_t RunFor(const PagedAttention& op, cudaStream_t stream) {
  const bool few = op.tile_rows * (op.heads / op.kv_heads) <= 16;
  const dim3 grid(op.tile_count, op.kv_heads, kSplit ? op.spans : 1);
  return Launch(few ? MmaAttentionKernel<kHeadDim, 1, kSplit> : MmaAttentionKernel<kHeadDim, 4, kSplit>, grid,
                dim3(few ? 32 : 128), 0, stream, op);
}

template <int kHeadDim>
cudaError_t RunFor(const PagedAttention& op, cudaStream_t stream) {
  return op.partials == nullptr ? RunFor<kHeadDim, false>(op, stream) : RunFor<kHeadDim, true>(op, stream);
}

}  // namespace

cudaError_t RunSpansMma(const PagedAttention& op, cudaStream_t stream) {
  return WithHeadDim(op.head_dim, [&](auto head_dim) { return RunFor<head_dim>(op, stream); });
}

}  // namespace braid::gpu
