// What the lanes of a warp do together, once all of a mask have arrived. Built without -fsanitize: the lanes' data lie
// on each other's stacks.

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "tests/cuda_emulator/simt.h"

namespace simt::internal {
namespace {

template <typename Function>
void ForLanes(uint32_t mask, Function function) {
  for (; mask != 0; mask &= mask - 1) function(std::countr_zero(mask));
}

template <typename T>
T& At(void* const* data, int lane) {
  return *static_cast<T*>(data[lane]);
}

void Shuffle(void* const* data, uint32_t mask) {
  uint64_t values[32];
  ForLanes(mask, [&](int lane) { values[lane] = At<Shuffled>(data, lane).value; });
  ForLanes(mask, [&](int lane) {
    Shuffled& shuffled = At<Shuffled>(data, lane);
    if ((mask >> shuffled.from & 1) == 0) {
      FailHere(ErrorKind::kInactiveLane, "lane %d reads lane %d, which is not in the mask %08x", lane, shuffled.from,
               mask);
    }
    shuffled.value = values[shuffled.from];
  });
}

void Ballot(void* const* data, uint32_t mask) {
  uint32_t ballot = 0;
  ForLanes(mask, [&](int lane) { ballot |= uint32_t{At<Voted>(data, lane).predicate} << lane; });
  ForLanes(mask, [&](int lane) { At<Voted>(data, lane).ballot = ballot; });
}

void MatchAny(void* const* data, uint32_t mask) {
  ForLanes(mask, [&](int lane) {
    Matched& matched = At<Matched>(data, lane);
    matched.equal = 0;
    ForLanes(mask,
             [&](int other) { matched.equal |= uint32_t{At<Matched>(data, other).value == matched.value} << other; });
  });
}

template <typename T, T (*kFunction)(T, T)>
void Reduce(void* const* data, uint32_t mask) {
  T result = At<T>(data, std::countr_zero(mask));
  ForLanes(mask & (mask - 1), [&](int lane) { result = kFunction(result, At<T>(data, lane)); });
  ForLanes(mask, [&](int lane) { At<T>(data, lane) = result; });
}
uint32_t Add(uint32_t a, uint32_t b) { return a + b; }
uint32_t And(uint32_t a, uint32_t b) { return a & b; }
uint32_t Or(uint32_t a, uint32_t b) { return a | b; }
uint32_t Xor(uint32_t a, uint32_t b) { return a ^ b; }
template <typename T>
T Lower(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
T Higher(T a, T b) {
  return a > b ? a : b;
}

float FloatOfUpper(uint32_t pair) { return std::bit_cast<float>(pair & 0xFFFF0000u); }
float FloatOfLower(uint32_t pair) { return std::bit_cast<float>(pair << 16); }

// D (16, 8) += A (16, 16) B (16, 8). With group = lane / 4, at = lane % 4: registers of A are rows group and group + 8,
// by columns 2 at and 2 at + 8; B's are rows 2 at and 2 at + 8 of column group; D's are rows group, group, group + 8,
// group + 8 by columns 2 at, 2 at + 1. A product is exact in float; their sum is taken in the order of k here.
void MultiplyBf16(void* const* data, uint32_t mask) {
  float a[16][16], b[16][8];
  ForLanes(mask, [&](int lane) {
    const MmaBf16Data& mma = At<MmaBf16Data>(data, lane);
    const int group = lane / 4, at = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      float* pair = &a[group + i % 2 * 8][at + i / 2 * 8];
      pair[0] = FloatOfLower(mma.a[i]), pair[1] = FloatOfUpper(mma.a[i]);
    }
    for (int i = 0; i < 2; ++i) {
      b[at + i * 8][group] = FloatOfLower(mma.b[i]);
      b[at + i * 8 + 1][group] = FloatOfUpper(mma.b[i]);
    }
  });
  ForLanes(mask, [&](int lane) {
    float* d = At<MmaBf16Data>(data, lane).d;
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      for (int k = 0; k < 16; ++k) d[i] += a[row][k] * b[k][column];
    }
  });
}

float FloatOfE4M3(uint8_t byte) {
  const int exponent = byte >> 3 & 15, fraction = byte & 7;
  if (exponent == 15 && fraction == 7) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9)
                                        : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
  return (byte & 0x80) != 0 ? -magnitude : magnitude;
}

// The same of A (16, 32) and B (32, 8) in bytes: where MmaBf16 has two columns in a register, there are four.
void MultiplyE4M3(void* const* data, uint32_t mask) {
  float a[16][32], b[32][8];
  ForLanes(mask, [&](int lane) {
    const MmaE4M3Data& mma = At<MmaE4M3Data>(data, lane);
    const int group = lane / 4, at = lane % 4 * 4;
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j)
        a[group + i % 2 * 8][at + i / 2 * 16 + j] = FloatOfE4M3(static_cast<uint8_t>(mma.a[i] >> 8 * j));
    }
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 4; ++j) b[at + i * 16 + j][group] = FloatOfE4M3(static_cast<uint8_t>(mma.b[i] >> 8 * j));
    }
  });
  ForLanes(mask, [&](int lane) {
    float* d = At<MmaE4M3Data>(data, lane).d;
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      for (int k = 0; k < 32; ++k) d[i] += a[row][k] * b[k][column];
    }
  });
}

// Lane 8 i + r gives the address of row r, of 16 bytes, of matrix i; lane l gets of each matrix its columns
// 2 (l % 4), 2 (l % 4) + 1 of row l / 4, or of the transposed matrix.
template <bool kTransposed>
void LoadMatrices(void* const* data, uint32_t mask) {
  ForLanes(mask, [&](int lane) {
    for (int i = 0; i < 4; ++i) {
      uint16_t pair[2];
      for (int j = 0; j < 2; ++j) {
        const int row = kTransposed ? lane % 4 * 2 + j : lane / 4, column = kTransposed ? lane / 4 : lane % 4 * 2 + j;
        pair[j] = At<LoadMatricesData>(data, 8 * i + row).row[column];
      }
      At<LoadMatricesData>(data, lane).registers[i] = pair[0] | uint32_t{pair[1]} << 16;
    }
  });
}

}  // namespace

const WarpOperation kSyncWarp = {"__syncwarp", nullptr, true};
const WarpOperation kShuffle = {"__shfl_sync", Shuffle, false};
const WarpOperation kShuffleUp = {"__shfl_up_sync", Shuffle, false};
const WarpOperation kShuffleDown = {"__shfl_down_sync", Shuffle, false};
const WarpOperation kShuffleXor = {"__shfl_xor_sync", Shuffle, false};
const WarpOperation kBallot = {"__ballot_sync", Ballot, false};
const WarpOperation kAny = {"__any_sync", Ballot, false};
const WarpOperation kAll = {"__all_sync", Ballot, false};
const WarpOperation kMatchAny = {"__match_any_sync", MatchAny, false};
const WarpOperation kReduceAdd = {"__reduce_add_sync", Reduce<uint32_t, Add>, false};
const WarpOperation kReduceMinUnsigned = {"__reduce_min_sync", Reduce<uint32_t, Lower>, false};
const WarpOperation kReduceMaxUnsigned = {"__reduce_max_sync", Reduce<uint32_t, Higher>, false};
const WarpOperation kReduceMinSigned = {"__reduce_min_sync", Reduce<int32_t, Lower>, false};
const WarpOperation kReduceMaxSigned = {"__reduce_max_sync", Reduce<int32_t, Higher>, false};
const WarpOperation kReduceAnd = {"__reduce_and_sync", Reduce<uint32_t, And>, false};
const WarpOperation kReduceOr = {"__reduce_or_sync", Reduce<uint32_t, Or>, false};
const WarpOperation kReduceXor = {"__reduce_xor_sync", Reduce<uint32_t, Xor>, false};
const WarpOperation kMmaBf16 = {"mma.m16n8k16", MultiplyBf16, false};
const WarpOperation kMmaE4M3 = {"mma.m16n8k32", MultiplyE4M3, false};
const WarpOperation kLoadMatrices = {"ldmatrix", LoadMatrices<false>, false};
const WarpOperation kLoadMatricesTransposed = {"ldmatrix.trans", LoadMatrices<true>, false};

}  // namespace simt::internal
