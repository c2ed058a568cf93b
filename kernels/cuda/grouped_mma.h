#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/grouped_linear.h"
#include "kernels/cuda/grouped_tile.h"
#include "kernels/cuda/numbers.h"
#include "kernels/cuda/ptx_mma.h"
#include "kernels/cuda/quants.h"

// What all tiles of GroupedLinear on tensor cores have in common: slices of K in shared memory, and the order in which
// their columns are multiplied, which makes an output's bits the same in each.
//
// Tensor cores do not care which column is which, as long as both operands agree. So lane t of a quad takes the columns
// [8 t, 8 t + 8) of each 32, 16 bytes at once, for two steps: four of them each.

namespace braid::gpu {

constexpr int kSlice = 64;           // columns
constexpr int kChunks = kSlice / 8;  // of eight numbers

// Where a chunk of a row of bfloat16 is. A row's upper and lower four are swapped in odd rows, so that eight lanes, of
// two rows, read 128 different bytes.
__device__ inline int ChunkAt(int row, int chunk) { return (row * kChunks + (chunk ^ row % 2 * 4)) * 8; }
// Where 32 columns of a row of bytes begin. Halves are swapped in the rows 2 and 3 of each four: half a warp reads 32
// bytes of four rows at a time.
__device__ inline int HalfAt(int row, int half) { return row * kSlice + (half ^ row / 2 % 2) * 32; }

__device__ inline uint32_t WordOf(const Vec<__nv_bfloat16, 8>& v, int pair) {
  uint32_t word;
  memcpy(&word, &v.v[2 * pair], 4);
  return word;
}

// A slice of kRows rows on its way through registers to shared memory: kEach vectors per thread, kRows * kChunks in
// all.
template <int kRows, int kThreads>
struct HeldSlice {
  static constexpr int kEach = kRows * kChunks / kThreads;
  static_assert(kRows * kChunks % kThreads == 0);
  Vec<__nv_bfloat16, 8> held[kEach];

  // row(i) gives row i's numbers, or nullptr for zeros.
  template <typename F>
  __device__ void Load(const F& row, int column, int columns) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int vector = threadIdx.x + i * kThreads, k = column + vector % kChunks * 8;
      const __nv_bfloat16* from = row(vector / kChunks);
      held[i] = {};
      if (from != nullptr && k < columns) held[i] = LoadVec<8>(from + k);
    }
  }
  __device__ void Store(__nv_bfloat16* to) const {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int vector = threadIdx.x + i * kThreads;
      StoreVec(to + ChunkAt(vector / kChunks, vector % kChunks), held[i]);
    }
  }
};

// Rows of x for two steps: the columns of `half`, of the 16 * kTilesM rows from `first` on.
template <int kTilesM>
struct LeftOperand {
  uint32_t words[2][kTilesM][4];

  __device__ void Load(const __nv_bfloat16* shared, int first, int half, int lane) {
#pragma unroll
    for (int m = 0; m < kTilesM; ++m) {
      const int row = first + m * 16 + lane / 4;
      const Vec<__nv_bfloat16, 8> upper = LoadVec<8>(shared + ChunkAt(row, half * 4 + lane % 4));
      const Vec<__nv_bfloat16, 8> lower = LoadVec<8>(shared + ChunkAt(row + 8, half * 4 + lane % 4));
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) words[step][m][i] = WordOf(i % 2 == 0 ? upper : lower, 2 * step + i / 2);
      }
    }
  }
};

// Eight outputs of the weights, likewise: `row` is the lane's, first + lane / 4.
struct RightOperand {
  uint32_t words[2][2];

  __device__ void LoadBf16(const __nv_bfloat16* shared, int row, int half, int lane) {
    const Vec<__nv_bfloat16, 8> columns = LoadVec<8>(shared + ChunkAt(row, half * 4 + lane % 4));
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int i = 0; i < 2; ++i) words[step][i] = WordOf(columns, 2 * step + i);
    }
  }
  // Each is a bfloat16 number once it is multiplied by its scale (a pair as Fp8ScalePair gives), and then as good as
  // one that was stored so.
  __device__ void LoadFp8(const uint8_t* shared, uint32_t scale, int row, int half, int lane) {
    const Vec<uint32_t, 2> bytes =
        LoadVec<2>(reinterpret_cast<const uint32_t*>(shared + HalfAt(row, half) + lane % 4 * 8));
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int i = 0; i < 2; ++i) words[step][i] = MultiplyBf16Pairs(Bf16PairOfE4M3(bytes[step] >> 16 * i), scale);
    }
  }
};

// c[m * c_stride] += rows [16 m, 16 m + 16) times eight outputs.
template <int kTilesM>
__device__ inline void MultiplyAdd(float (*c)[4], int c_stride, const LeftOperand<kTilesM>& a, const RightOperand& b) {
#pragma unroll
  for (int step = 0; step < 2; ++step) {
#pragma unroll
    for (int m = 0; m < kTilesM; ++m) MmaBf16(c[m * c_stride], a.words[step][m], b.words[step]);
  }
}

// The row of x that row m of a tile reads; -1: none, behind the tile's end.
__device__ inline int RowOfX(const GroupedLinear& op, const GroupedTile& tile, int m) {
  const int row = tile.begin + m;
  if (row >= tile.end) return -1;
  return op.source == nullptr ? row : op.source[row];
}

// Two neighbouring outputs of a row.
__device__ inline void StorePair(const GroupedLinear& op, int64_t at, float first, float second) {
  if (op.y_type == DType::kBF16) {
    StoreFloats(static_cast<__nv_bfloat16*>(op.y) + at, Floats<2>{first, second});
  } else {
    StoreFloats(static_cast<float*>(op.y) + at, Floats<2>{first, second});
  }
}

// A warp's results: of the tile's rows from first_row on, and outputs of W from first_output on.
template <bool kSwiGlu, int kTilesM, int kTilesN>
__device__ inline void StoreResults(const GroupedLinear& op, const GroupedTile& tile, int first_row, int first_output,
                                    const float (&c)[kTilesM][kTilesN][4], int lane) {
#pragma unroll
  for (int m = 0; m < kTilesM; ++m) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t row = tile.begin + first_row + m * 16 + i * 8 + lane / 4;
      if (row >= tile.end) continue;
#pragma unroll
      for (int n = 0; n < kTilesN; n += kSwiGlu ? 2 : 1) {
        const int output = first_output + n * 8 + lane % 4 * 2;
        if (output >= op.N) continue;
        const float* v = &c[m][n][2 * i];
        if constexpr (kSwiGlu) {
          const float* up = &c[m][n + 1][2 * i];
          const int64_t at = row * (op.N / 2) + (output - lane % 4 * 2) / 2 + lane % 4 * 2;
          StorePair(op, at, Silu(v[0]) * up[0], Silu(v[1]) * up[1]);
        } else {
          StorePair(op, row * op.N + output, v[0], v[1]);
        }
      }
    }
  }
}

}  // namespace braid::gpu
