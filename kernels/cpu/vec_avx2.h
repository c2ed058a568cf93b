// Eight floats and eight integers in AVX2 registers; vec_portable.h says what each operation means. Included once per
// level, after its target pragma, with BRAID_LEVEL set to its namespace and BRAID_HAS_AVX512 to whether it has F and
// DQ.

namespace braid::BRAID_LEVEL {

using V8 = __m256;
using I8 = __m256i;

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
inline V8 Fma(V8 a, V8 b, V8 c) { return _mm256_fmadd_ps(a, b, c); }
inline float Sum(V8 v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline V8 BroadcastF16(const void* p) { return _mm256_cvtph_ps(_mm_set1_epi16(static_cast<int16_t>(LoadU16(p)))); }

inline I8 LoadInts(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline I8 WidenU8(const void* p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))); }
inline I8 WidenS8(const void* p) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))); }
inline I8 And(I8 v, int mask) { return _mm256_and_si256(v, _mm256_set1_epi32(mask)); }
inline I8 Or(I8 a, I8 b) { return _mm256_or_si256(a, b); }
inline I8 Shift(I8 v, int left) { return left >= 0 ? _mm256_slli_epi32(v, left) : _mm256_srli_epi32(v, -left); }
template <int kPart>
inline I8 WidenPart(I8 v) {
  const __m128i half = kPart < 2 ? _mm256_castsi256_si128(v) : _mm256_extracti128_si256(v, 1);
  return _mm256_cvtepu8_epi32(kPart % 2 == 0 ? half : _mm_unpackhi_epi64(half, half));
}
inline V8 ToFloat(I8 v) { return _mm256_cvtepi32_ps(v); }

// Two of them side by side.
#if BRAID_HAS_AVX512
using V8x2 = __m512;
inline V8x2 LoadPair(const float* p) { return _mm512_loadu_ps(p); }
inline V8x2 LoadTwice(const float* p) { return _mm512_broadcast_f32x8(_mm256_loadu_ps(p)); }
inline void StorePair(float* p, V8x2 v) { _mm512_storeu_ps(p, v); }
// Eight rows by three pairs are 24 accumulators of 32.
inline constexpr int kTileRows = 8, kTilePairs = 3;
#else
struct V8x2 {
  V8 a, b;
};
inline V8x2 LoadPair(const float* p) { return {LoadF32(p), LoadF32(p + 8)}; }
inline V8x2 LoadTwice(const float* p) {
  const V8 v = LoadF32(p);
  return {v, v};
}
inline void StorePair(float* p, V8x2 v) {
  Store(p, v.a);
  Store(p + 8, v.b);
}
inline V8x2 Fma(V8x2 x, V8x2 y, V8x2 z) { return {Fma(x.a, y.a, z.a), Fma(x.b, y.b, z.b)}; }
// Six rows by one pair are twelve accumulators of sixteen.
inline constexpr int kTileRows = 6, kTilePairs = 1;
#endif

}  // namespace braid::BRAID_LEVEL
