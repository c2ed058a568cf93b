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

// Tensor cores add up a few exact products and what there was at once, not one after the other: aligned to the largest,
// each cut off where that one's significand ends, and the sum cut off to float (Fasi et al., Numerical behavior of
// NVIDIA tensor cores, PeerJ CS 7:e330). How many at once, and with how many bits to spare, differs between GPUs: here
// it is 8, and none.
constexpr int kAtOnce = 8;

using Floats = float __attribute__((vector_size(16)));  // of four columns
using Words = int32_t __attribute__((vector_size(16)));

Floats Magnitude(Floats x) { return std::bit_cast<Floats>(std::bit_cast<Words>(x) & 0x7FFFFFFF); }
// Where `which` has all bits set.
Floats Where(Words which, Floats x) { return std::bit_cast<Floats>(std::bit_cast<Words>(x) & which); }

// The sums plus their products.
Floats AddCutOff(Floats sums, const Floats (&products)[kAtOnce]) {
  Floats largest = Magnitude(sums), plain = sums;
  for (const Floats& product : products) {
    const Floats magnitude = Magnitude(product);
    largest = largest < magnitude ? magnitude : largest;
    plain += product;
  }
  // The last bit of the largest number is 2^(exponent - 150). Where that or its inverse is no normal number, and where
  // something is infinite or no number at all, the plain sum is as good.
  const Words exponent = std::bit_cast<Words>(largest) >> 23;
  const Words usual = (exponent >= 24) & (exponent < 255) & (Magnitude(plain) < Floats{} + INFINITY);
  const Floats to_units = std::bit_cast<Floats>((277 - exponent) << 23);
  Words units = __builtin_convertvector(Where(usual, sums * to_units), Words);
  for (const Floats& product : products) units += __builtin_convertvector(Where(usual, product * to_units), Words);
  const Words sign = units >> 31;
  Words magnitude = (units ^ sign) - sign;
  for (int bits = 4; bits > 0; --bits) magnitude &= ~((magnitude >> (23 + bits) != 0) & ((1 << bits) - 1));
  const Floats unit = std::bit_cast<Floats>((exponent - 23) << 23);
  const Floats cut = __builtin_convertvector((magnitude ^ sign) - sign, Floats) * unit;
  return usual ? cut : plain;
}

// d (16, 8) += a (16, K) b (K, 8), where lane l has of d what MultiplyBf16 says.
template <int K>
void Multiply(const float (&a)[16][K], const float (&b)[K][8], float* const (&d)[32]) {
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; column += 4) {
      float* const left = d[row % 8 * 4 + column / 2] + row / 8 * 2;
      float* const right = d[row % 8 * 4 + column / 2 + 1] + row / 8 * 2;
      Floats sums = {left[0], left[1], right[0], right[1]};
      for (int first = 0; first < K; first += kAtOnce) {
        Floats products[kAtOnce];
        for (int k = 0; k < kAtOnce; ++k) {
          const float* from = &b[first + k][column];
          products[k] = a[row][first + k] * Floats{from[0], from[1], from[2], from[3]};
        }
        sums = AddCutOff(sums, products);
      }
      left[0] = sums[0], left[1] = sums[1], right[0] = sums[2], right[1] = sums[3];
    }
  }
}

// D (16, 8) += A (16, 16) B (16, 8). With group = lane / 4, at = lane % 4: registers of A are rows group and group + 8,
// by columns 2 at and 2 at + 8; B's are rows 2 at and 2 at + 8 of column group; D's are rows group, group, group + 8,
// group + 8 by columns 2 at, 2 at + 1.
void MultiplyBf16(void* const* data, uint32_t mask) {
  float a[16][16], b[16][8];
  float* d[32];
  ForLanes(mask, [&](int lane) {
    const MmaBf16Data& mma = At<MmaBf16Data>(data, lane);
    d[lane] = mma.d;
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
  Multiply(a, b, d);
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
  float* d[32];
  ForLanes(mask, [&](int lane) {
    const MmaE4M3Data& mma = At<MmaE4M3Data>(data, lane);
    d[lane] = mma.d;
    const int group = lane / 4, at = lane % 4 * 4;
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j)
        a[group + i % 2 * 8][at + i / 2 * 16 + j] = FloatOfE4M3(static_cast<uint8_t>(mma.a[i] >> 8 * j));
    }
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 4; ++j) b[at + i * 16 + j][group] = FloatOfE4M3(static_cast<uint8_t>(mma.b[i] >> 8 * j));
    }
  });
  Multiply(a, b, d);
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
