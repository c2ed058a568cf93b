// Sixteen floats, sixteen integers and sixty-four bytes in AVX-512 registers; vec16_portable.h says what each operation
// means. Included by level_avx512.cc, after its target pragma.

namespace braid::avx512 {

using V16 = __m512;
using I16 = __m512i;
using Bytes = __m512i;

inline V16 Zero16() { return _mm512_setzero_ps(); }
inline V16 Broadcast16(float x) { return _mm512_set1_ps(x); }
inline V16 Load16(const float* p) { return _mm512_loadu_ps(p); }
inline void Store(float* p, V16 v) { _mm512_storeu_ps(p, v); }
inline V16 Load16F16(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
inline V16 Load16BF16(const void* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
template <int part>
inline V16 LoadPart(const uint16_t* words) {
  const __m512i all = _mm512_loadu_si512(words);
  return _mm512_castsi512_ps(part == 0 ? _mm512_slli_epi32(all, 16)
                                       : _mm512_and_si512(all, _mm512_set1_epi32(~0xFFFF)));
}
template <int part>
inline V16 LoadPart(const int8_t* words) {
  constexpr int kTop = part << 24 | 0x808080;  // the part goes to the top of its word, zeros follow
  const __m512i control = _mm512_set4_epi32(kTop + (12 << 24), kTop + (8 << 24), kTop + (4 << 24), kTop);
  return _mm512_cvtepi32_ps(_mm512_shuffle_epi8(_mm512_loadu_si512(words), control));
}
inline void StoreBF16(uint16_t* p, V16 v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd), 16);
  const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
  const __m512i chosen = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), quiet);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(chosen));
}
inline V16 Add(V16 a, V16 b) { return _mm512_add_ps(a, b); }
inline V16 Sub(V16 a, V16 b) { return _mm512_sub_ps(a, b); }
inline V16 Mul(V16 a, V16 b) { return _mm512_mul_ps(a, b); }
inline V16 Div(V16 a, V16 b) { return _mm512_div_ps(a, b); }
inline V16 Fma(V16 a, V16 b, V16 c) { return _mm512_fmadd_ps(a, b, c); }
inline V16 Max(V16 a, V16 b) { return _mm512_max_ps(a, b); }
inline V16 SelectLess(V16 a, V16 b, V16 yes, V16 no) {
  return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), yes);
}
inline uint32_t LessBits(V16 a, V16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline V16 ShiftBitsLeft23(V16 v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(v), 23)); }
inline V16 AddBits(V16 v, int32_t n) {
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(n)));
}
inline V16 AbsBits(V16 v) { return _mm512_and_ps(v, _mm512_castsi512_ps(_mm512_set1_epi32(0x7FFFFFFF))); }
inline int32_t MaxBits(V16 v) { return _mm512_reduce_max_epi32(_mm512_castps_si512(v)); }
inline float Sum(V16 v) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float MaxLane(V16 v) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

struct D16 {
  __m512d low, high;
};
inline D16 ZeroD16() { return {_mm512_setzero_pd(), _mm512_setzero_pd()}; }
inline D16 AddSquares(D16 acc, V16 v) {
  const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(v)), high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
  return {_mm512_fmadd_pd(low, low, acc.low), _mm512_fmadd_pd(high, high, acc.high)};
}
inline D16 AddWide(D16 acc, V16 v) {
  return {_mm512_add_pd(acc.low, _mm512_cvtps_pd(_mm512_castps512_ps256(v))),
          _mm512_add_pd(acc.high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)))};
}
inline double Sum(D16 v) {
  const __m512d eight = _mm512_add_pd(v.low, v.high);
  const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

inline I16 Zero16I() { return _mm512_setzero_si512(); }
inline I16 Broadcast16I(int32_t x) { return _mm512_set1_epi32(x); }
inline V16 AsFloat(I16 v) { return _mm512_castsi512_ps(v); }
inline V16 FloatOfU8(const void* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}
inline V16 FloatOfS8(const void* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}
inline int32_t Sum(I16 v) { return _mm512_reduce_add_epi32(v); }
inline I16 Add(I16 a, I16 b) { return _mm512_add_epi32(a, b); }
inline I16 BitsMinus(V16 v, int32_t n) { return _mm512_sub_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(n)); }
inline void StoreLowBytes(int8_t* p, I16 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
}

inline Bytes LoadBytes(const std::byte* p) { return _mm512_loadu_si512(p); }
inline Bytes LowNibbles(Bytes b) { return _mm512_and_si512(b, _mm512_set1_epi8(0x0F)); }
inline Bytes HighNibbles(Bytes b) { return _mm512_and_si512(_mm512_srli_epi16(b, 4), _mm512_set1_epi8(0x0F)); }
template <int kFrom, int kTo, int kMask>
inline Bytes MoveBits(Bytes b) {
  if constexpr (kFrom > kTo) b = _mm512_srli_epi16(b, kFrom - kTo);
  if constexpr (kFrom < kTo) b = _mm512_slli_epi16(b, kTo - kFrom);
  return _mm512_and_si512(b, _mm512_set1_epi8(static_cast<char>(kMask << kTo)));
}
inline Bytes Or(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }

using Quad = __m512i;
inline Quad BroadcastQuad(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, sizeof four);
  return _mm512_set1_epi32(four);
}
template <int kBits>
inline I16 Dot4(I16 acc, Bytes w, Quad x) {
  return _mm512_dpbusd_epi32(acc, w, x);
}

// What fits the registers: six rows by two halves are 24 accumulators of 32.
inline constexpr int kPanelRows = 6;
inline constexpr int kPanelHalves = 2;
// Keys or values of a tile of six rows of attention: 24 accumulators of 32 registers.
inline constexpr int kAttentionVectors = 4;

}  // namespace braid::avx512
