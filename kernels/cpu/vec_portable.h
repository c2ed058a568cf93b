#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/half.h"

// Eight floats and eight integers in plain C++, with the operations of vec_avx2.h and the same bits.

namespace braid::portable {

struct V8 {
  float lane[8];
};
struct I8 {
  int32_t lane[8];
};

template <typename F>
inline V8 Map(F f) {
  V8 v;
  for (int i = 0; i < 8; ++i) v.lane[i] = f(i);
  return v;
}
inline V8 Zero() { return V8{}; }
inline V8 Broadcast(float x) {
  return Map([&](int) { return x; });
}
inline V8 LoadF32(const void* p) {
  V8 v;
  std::memcpy(v.lane, p, sizeof v.lane);
  return v;
}
inline void Store(float* p, const V8& v) { std::memcpy(p, v.lane, sizeof v.lane); }
inline V8 LoadF16(const void* p) {
  return Map([&](int i) { return FloatFromHalf(LoadU16(static_cast<const char*>(p) + 2 * i)); });
}
inline V8 LoadBF16(const void* p) {
  return Map([&](int i) { return FloatFromBFloat16(LoadU16(static_cast<const char*>(p) + 2 * i)); });
}
inline V8 Mul(const V8& a, const V8& b) {
  return Map([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline V8 Sub(const V8& a, const V8& b) {
  return Map([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline V8 Fma(const V8& a, const V8& b, const V8& c) {
  return Map([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}
// ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7))
inline float Sum(const V8& v) {
  const float* l = v.lane;
  return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}
inline V8 BroadcastF16(const void* p) { return Broadcast(FloatFromHalf(LoadU16(p))); }

template <typename F>
inline I8 MapInts(F f) {
  I8 v;
  for (int i = 0; i < 8; ++i) v.lane[i] = f(i);
  return v;
}
inline I8 LoadInts(const void* p) {
  I8 v;
  std::memcpy(v.lane, p, sizeof v.lane);
  return v;
}
inline I8 WidenU8(const void* p) {
  return MapInts([&](int i) { return static_cast<const uint8_t*>(p)[i]; });
}
inline I8 WidenS8(const void* p) {
  return MapInts([&](int i) { return static_cast<const int8_t*>(p)[i]; });
}
inline I8 And(const I8& v, int mask) {
  return MapInts([&](int i) { return v.lane[i] & mask; });
}
inline I8 Or(const I8& a, const I8& b) {
  return MapInts([&](int i) { return a.lane[i] | b.lane[i]; });
}
// Left by `left` bits, or right if it is negative; zeros come in.
inline I8 Shift(const I8& v, int left) {
  return MapInts([&](int i) {
    const uint32_t bits = static_cast<uint32_t>(v.lane[i]);
    return static_cast<int32_t>(left >= 0 ? bits << left : bits >> -left);
  });
}
// Bytes [8 * kPart, 8 * kPart + 8) of the 32.
template <int kPart>
inline I8 WidenPart(const I8& v) {
  uint8_t bytes[32];
  std::memcpy(bytes, v.lane, sizeof bytes);
  return WidenU8(bytes + 8 * kPart);
}
inline V8 ToFloat(const I8& v) {
  return Map([&](int i) { return static_cast<float>(v.lane[i]); });
}

// Two of them side by side.
struct V8x2 {
  V8 a, b;
};
inline V8x2 LoadPair(const float* p) { return {LoadF32(p), LoadF32(p + 8)}; }
inline V8x2 LoadTwice(const float* p) { return {LoadF32(p), LoadF32(p)}; }
inline void StorePair(float* p, const V8x2& v) {
  Store(p, v.a);
  Store(p + 8, v.b);
}
inline V8x2 Fma(const V8x2& x, const V8x2& y, const V8x2& z) { return {Fma(x.a, y.a, z.a), Fma(x.b, y.b, z.b)}; }
// Rows and pairs of outputs in a block of linear-inl.h.
inline constexpr int kTileRows = 4, kTilePairs = 1;

}  // namespace braid::portable
