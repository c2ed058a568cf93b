#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/half.h"

// Eight floats and thirty-two bytes in plain C++, with the operations of vec_avx2.h and the same bits.

namespace braid::portable {

struct V8 {
  float lane[8];
};
struct B32 {
  uint8_t byte[32];
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
inline float HalfToFloat(const void* p) { return FloatFromHalf(LoadU16(p)); }
inline void Prefetch(const void*) {}

template <typename F>
inline B32 MapBytes(F f) {
  B32 b;
  for (int i = 0; i < 32; ++i) b.byte[i] = static_cast<uint8_t>(f(i));
  return b;
}
inline B32 LoadBytes(const void* p) {
  B32 b;
  std::memcpy(b.byte, p, sizeof b.byte);
  return b;
}
// 16 bytes to 32: the low nibbles, then the high ones.
inline B32 LoadNibbles(const void* p) {
  const uint8_t* q = static_cast<const uint8_t*>(p);
  return MapBytes([&](int i) { return i < 16 ? q[i] & 15 : q[i - 16] >> 4; });
}
// (byte >> shift) & mask. REQUIRES: mask < 256 >> shift.
inline B32 Bits(const B32& b, int shift, int mask) {
  return MapBytes([&](int i) { return b.byte[i] >> shift & mask; });
}
// a | b << shift. REQUIRES: no bit of b leaves its byte.
inline B32 OrShifted(const B32& a, const B32& b, int shift) {
  return MapBytes([&](int i) { return a.byte[i] | b.byte[i] << shift; });
}
inline B32 Minus(const B32& b, int bias) {
  return MapBytes([&](int i) { return b.byte[i] - bias; });
}
// Bytes [8 * kPart, 8 * kPart + 8), taken as signed.
template <int kPart>
inline V8 ToFloat(const B32& b) {
  return Map([&](int i) { return static_cast<float>(static_cast<int8_t>(b.byte[8 * kPart + i])); });
}

}  // namespace braid::portable
