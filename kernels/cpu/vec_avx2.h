#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/half.h"

// Eight floats and thirty-two bytes in AVX2 registers; vec_portable.h says what each operation means.
// REQUIRES: included after the target pragma of level_avx2.cc.

namespace braid::avx2 {

using V8 = __m256;
using B32 = __m256i;

inline V8 Zero() { return _mm256_setzero_ps(); }
inline V8 Broadcast(float x) { return _mm256_set1_ps(x); }
inline V8 LoadF32(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
inline void Store(float* p, V8 v) { _mm256_storeu_ps(p, v); }
inline V8 LoadF16(const void* p) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
inline V8 LoadBF16(const void* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline V8 Mul(V8 a, V8 b) { return _mm256_mul_ps(a, b); }
inline V8 Sub(V8 a, V8 b) { return _mm256_sub_ps(a, b); }
inline V8 Fma(V8 a, V8 b, V8 c) { return _mm256_fmadd_ps(a, b, c); }
inline float Sum(V8 v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float HalfToFloat(const void* p) { return _cvtsh_ss(LoadU16(p)); }
inline void Prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

inline B32 LoadBytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline B32 LoadNibbles(const void* p) {
  const __m128i packed = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(packed, 4), packed), _mm256_set1_epi8(15));
}
inline B32 Bits(B32 b, int shift, int mask) {
  const __m256i moved = _mm256_srl_epi16(b, _mm_cvtsi32_si128(shift));
  return _mm256_and_si256(moved, _mm256_set1_epi8(static_cast<char>(mask)));
}
inline B32 OrShifted(B32 a, B32 b, int shift) {
  return _mm256_or_si256(a, _mm256_sll_epi16(b, _mm_cvtsi32_si128(shift)));
}
inline B32 Minus(B32 b, int bias) { return _mm256_sub_epi8(b, _mm256_set1_epi8(static_cast<char>(bias))); }
template <int kPart>
inline V8 ToFloat(B32 b) {
  const __m128i half = kPart < 2 ? _mm256_castsi256_si128(b) : _mm256_extracti128_si256(b, 1);
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(kPart % 2 == 0 ? half : _mm_unpackhi_epi64(half, half)));
}

}  // namespace braid::avx2
