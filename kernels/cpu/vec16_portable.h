#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/half.h"

// Sixteen floats, sixteen integers and sixty-four bytes in plain C++: what the other levels do with registers, with the
// same bits.

namespace braid::portable {

struct V16 {
  float lane[16];
};
struct I16 {
  int32_t lane[16];
};
struct Bytes {
  uint8_t lane[64];
};

template <typename F>
inline V16 Map16(F f) {
  V16 v;
  for (int i = 0; i < 16; ++i) v.lane[i] = f(i);
  return v;
}
template <typename F>
inline I16 MapInts16(F f) {
  I16 v;
  for (int i = 0; i < 16; ++i) v.lane[i] = f(i);
  return v;
}

inline V16 Zero16() { return V16{}; }
inline V16 Broadcast16(float x) {
  return Map16([&](int) { return x; });
}
inline V16 Load16(const float* p) {
  V16 v;
  std::memcpy(v.lane, p, sizeof v.lane);
  return v;
}
inline void Store(float* p, const V16& v) { std::memcpy(p, v.lane, sizeof v.lane); }
inline V16 Load16F16(const void* p) {
  return Map16([&](int i) { return FloatFromHalf(LoadU16(static_cast<const char*>(p) + 2 * i)); });
}
inline V16 Load16BF16(const void* p) {
  return Map16([&](int i) { return FloatFromBFloat16(LoadU16(static_cast<const char*>(p) + 2 * i)); });
}
// The first, second, ... of the two bfloat16 or four int8 in each of sixteen words; int8 times kInt8PartUnit.
template <int part>
inline V16 LoadPart(const uint16_t* words) {
  return Map16([&](int i) { return FloatFromBFloat16(words[2 * i + part]); });
}
template <int part>
inline V16 LoadPart(const int8_t* words) {
  return Map16([&](int i) { return static_cast<float>(words[4 * i + part]) * kInt8PartUnit; });
}
// To nearest, ties to even; a NaN stays one.
inline void StoreBF16(uint16_t* p, const V16& v) {
  for (int i = 0; i < 16; ++i) p[i] = BFloat16FromFloat(v.lane[i]);
}
inline V16 Add(const V16& a, const V16& b) {
  return Map16([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline V16 Sub(const V16& a, const V16& b) {
  return Map16([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline V16 Mul(const V16& a, const V16& b) {
  return Map16([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline V16 Div(const V16& a, const V16& b) {
  return Map16([&](int i) { return a.lane[i] / b.lane[i]; });
}
inline V16 Fma(const V16& a, const V16& b, const V16& c) {
  return Map16([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}
// b if either is NaN, as the instruction has it.
inline V16 Max(const V16& a, const V16& b) {
  return Map16([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
// a < b ? yes : no
inline V16 SelectLess(const V16& a, const V16& b, const V16& yes, const V16& no) {
  return Map16([&](int i) { return a.lane[i] < b.lane[i] ? yes.lane[i] : no.lane[i]; });
}
// Bit i: a < b in lane i.
inline uint32_t LessBits(const V16& a, const V16& b) {
  uint32_t bits = 0;
  for (int i = 0; i < 16; ++i) bits |= static_cast<uint32_t>(a.lane[i] < b.lane[i]) << i;
  return bits;
}
// Operations on the bit patterns.
inline V16 ShiftBitsLeft23(const V16& v) {
  return Map16([&](int i) { return std::bit_cast<float>(std::bit_cast<uint32_t>(v.lane[i]) << 23); });
}
inline V16 AddBits(const V16& v, int32_t n) {
  return Map16(
      [&](int i) { return std::bit_cast<float>(std::bit_cast<uint32_t>(v.lane[i]) + static_cast<uint32_t>(n)); });
}
inline V16 AbsBits(const V16& v) {
  return Map16([&](int i) { return std::bit_cast<float>(std::bit_cast<uint32_t>(v.lane[i]) & 0x7FFFFFFFu); });
}
inline int32_t MaxBits(const V16& v) {
  int32_t max = std::bit_cast<int32_t>(v.lane[0]);
  for (int i = 1; i < 16; ++i) max = std::max(max, std::bit_cast<int32_t>(v.lane[i]));
  return max;
}
// Halves onto each other until one is left: an order that every level has.
inline float Sum(V16 v) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v.lane[i] += v.lane[i + half];
  return v.lane[0];
}
inline float MaxLane(V16 v) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v.lane[i] = v.lane[i] > v.lane[i + half] ? v.lane[i] : v.lane[i + half];
  return v.lane[0];
}

struct D16 {
  double lane[16];
};
inline D16 ZeroD16() { return D16{}; }
// acc + v * v
inline D16 AddSquares(D16 acc, const V16& v) {
  for (int i = 0; i < 16; ++i) acc.lane[i] += static_cast<double>(v.lane[i]) * static_cast<double>(v.lane[i]);
  return acc;
}
// acc + v
inline D16 AddWide(D16 acc, const V16& v) {
  for (int i = 0; i < 16; ++i) acc.lane[i] += static_cast<double>(v.lane[i]);
  return acc;
}
inline double Sum(D16 v) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v.lane[i] += v.lane[i + half];
  return v.lane[0];
}

inline I16 Zero16I() { return I16{}; }
inline I16 Broadcast16I(int32_t x) {
  return MapInts16([&](int) { return x; });
}
inline V16 AsFloat(const I16& v) { return std::bit_cast<V16>(v); }
inline V16 FloatOfU8(const void* p) {
  return Map16([&](int i) { return static_cast<float>(static_cast<const uint8_t*>(p)[i]); });
}
inline V16 FloatOfS8(const void* p) {
  return Map16([&](int i) { return static_cast<float>(static_cast<const int8_t*>(p)[i]); });
}
inline int32_t Sum(const I16& v) {
  int32_t sum = 0;
  for (int32_t lane : v.lane) sum += lane;
  return sum;
}
inline I16 Add(const I16& a, const I16& b) {
  return MapInts16([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline I16 BitsMinus(const V16& v, int32_t n) {
  return MapInts16(
      [&](int i) { return static_cast<int32_t>(std::bit_cast<uint32_t>(v.lane[i]) - static_cast<uint32_t>(n)); });
}
inline void StoreLowBytes(int8_t* p, const I16& v) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(v.lane[i]);
}

inline Bytes LoadBytes(const std::byte* p) {
  Bytes b;
  std::memcpy(b.lane, p, sizeof b.lane);
  return b;
}
template <typename F>
inline Bytes MapBytes(F f) {
  Bytes b;
  for (int i = 0; i < 64; ++i) b.lane[i] = static_cast<uint8_t>(f(i));
  return b;
}
inline Bytes LowNibbles(const Bytes& b) {
  return MapBytes([&](int i) { return b.lane[i] & 0x0F; });
}
inline Bytes HighNibbles(const Bytes& b) {
  return MapBytes([&](int i) { return b.lane[i] >> 4; });
}
// The bits of kMask at kFrom of each byte, moved to kTo; zeros elsewhere.
template <int kFrom, int kTo, int kMask>
inline Bytes MoveBits(const Bytes& b) {
  return MapBytes([&](int i) { return (b.lane[i] >> kFrom & kMask) << kTo; });
}
inline Bytes Or(const Bytes& a, const Bytes& b) {
  return MapBytes([&](int i) { return a.lane[i] | b.lane[i]; });
}

// The same four signed bytes for all lanes.
struct Quad {
  int8_t byte[4];
};
inline Quad BroadcastQuad(const int8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
// acc[i] += sum over j < 4 of w[4 i + j] * x[j], w unsigned of kBits bits.
template <int kBits>
inline I16 Dot4(const I16& acc, const Bytes& w, const Quad& x) {
  return MapInts16([&](int i) {
    int32_t sum = acc.lane[i];
    for (int j = 0; j < 4; ++j) sum += w.lane[4 * i + j] * x.byte[j];
    return sum;
  });
}

// Rows and halves of a panel that a tile of panels-inl.h has.
inline constexpr int kPanelRows = 2;
inline constexpr int kPanelHalves = 1;
// Keys or values of a tile of six rows of attention.
inline constexpr int kAttentionVectors = 1;

}  // namespace braid::portable
