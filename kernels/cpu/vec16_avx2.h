// Sixteen floats, sixteen integers and sixty-four bytes in pairs of AVX2 registers; vec16_portable.h says what each
// operation means. Included once per level, after its target pragma, with BRAID_LEVEL set to its namespace and
// BRAID_HAS_VNNI to whether it has vpdpbusd.

namespace braid::BRAID_LEVEL {

struct V16 {
  __m256 low, high;
};
struct I16 {
  __m256i low, high;
};
using Bytes = I16;

inline V16 Zero16() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline V16 Broadcast16(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline V16 Load16(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void Store(float* p, V16 v) {
  _mm256_storeu_ps(p, v.low);
  _mm256_storeu_ps(p + 8, v.high);
}
inline V16 Load16F16(const void* p) {
  const __m128i* from = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from + 1))};
}
inline __m256 WidenBF16(__m128i eight) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 16));
}
inline V16 Load16BF16(const void* p) {
  const __m128i* from = static_cast<const __m128i*>(p);
  return {WidenBF16(_mm_loadu_si128(from)), WidenBF16(_mm_loadu_si128(from + 1))};
}
template <int part>
inline __m256 BF16Part(const uint16_t* words) {
  const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
  return _mm256_castsi256_ps(part == 0 ? _mm256_slli_epi32(all, 16)
                                       : _mm256_and_si256(all, _mm256_set1_epi32(~0xFFFF)));
}
template <int part>
inline __m256 Int8Part(const int8_t* words) {
  constexpr int kTop = part << 24 | 0x808080;  // the part goes to the top of its word, zeros follow
  const __m128i control = _mm_set_epi32(kTop + (12 << 24), kTop + (8 << 24), kTop + (4 << 24), kTop);
  const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
  return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(all, _mm256_broadcastsi128_si256(control)));
}
template <int part>
inline V16 LoadPart(const uint16_t* words) {
  return {BF16Part<part>(words), BF16Part<part>(words + 16)};
}
template <int part>
inline V16 LoadPart(const int8_t* words) {
  return {Int8Part<part>(words), Int8Part<part>(words + 32)};
}
inline __m256i RoundToBF16(__m256 v) {
  const __m256i bits = _mm256_castps_si256(v), top = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd), 16);
  const __m256i quiet = _mm256_or_si256(top, _mm256_set1_epi32(0x40));
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
}
inline void StoreBF16(uint16_t* p, V16 v) {
  const __m256i mixed = _mm256_packus_epi32(RoundToBF16(v.low), RoundToBF16(v.high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(mixed, 0xD8));
}
inline V16 Add(V16 a, V16 b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline V16 Sub(V16 a, V16 b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline V16 Mul(V16 a, V16 b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline V16 Div(V16 a, V16 b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline V16 Fma(V16 a, V16 b, V16 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline V16 Max(V16 a, V16 b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline V16 SelectLess(V16 a, V16 b, V16 yes, V16 no) {
  return {_mm256_blendv_ps(no.low, yes.low, _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
          _mm256_blendv_ps(no.high, yes.high, _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
}
inline uint32_t LessBits(V16 a, V16 b) {
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ));
  return static_cast<uint32_t>(low | _mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ)) << 8);
}
inline V16 ShiftBitsLeft23(V16 v) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v.low), 23)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v.high), 23))};
}
inline V16 AddBits(V16 v, int32_t n) {
  const __m256i all = _mm256_set1_epi32(n);
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v.low), all)),
          _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v.high), all))};
}
inline V16 AbsBits(V16 v) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
  return {_mm256_and_ps(v.low, mask), _mm256_and_ps(v.high, mask)};
}
inline int32_t MaxBits(V16 v) {
  const __m256i eight = _mm256_max_epi32(_mm256_castps_si256(v.low), _mm256_castps_si256(v.high));
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
}
inline float Sum(V16 v) {
  const __m256 eight = _mm256_add_ps(v.low, v.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float MaxLane(V16 v) {
  const __m256 eight = _mm256_max_ps(v.low, v.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

struct D16 {
  __m256d quarter[4];
};
inline D16 ZeroD16() { return {{_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()}}; }
inline __m256d AddSquares(__m256d acc, __m128 v) {
  const __m256d wide = _mm256_cvtps_pd(v);
  return _mm256_fmadd_pd(wide, wide, acc);
}
inline D16 AddSquares(D16 acc, V16 v) {
  return {{AddSquares(acc.quarter[0], _mm256_castps256_ps128(v.low)),
           AddSquares(acc.quarter[1], _mm256_extractf128_ps(v.low, 1)),
           AddSquares(acc.quarter[2], _mm256_castps256_ps128(v.high)),
           AddSquares(acc.quarter[3], _mm256_extractf128_ps(v.high, 1))}};
}
inline D16 AddWide(D16 acc, V16 v) {
  return {{_mm256_add_pd(acc.quarter[0], _mm256_cvtps_pd(_mm256_castps256_ps128(v.low))),
           _mm256_add_pd(acc.quarter[1], _mm256_cvtps_pd(_mm256_extractf128_ps(v.low, 1))),
           _mm256_add_pd(acc.quarter[2], _mm256_cvtps_pd(_mm256_castps256_ps128(v.high))),
           _mm256_add_pd(acc.quarter[3], _mm256_cvtps_pd(_mm256_extractf128_ps(v.high, 1)))}};
}
inline double Sum(D16 v) {
  const __m256d four =
      _mm256_add_pd(_mm256_add_pd(v.quarter[0], v.quarter[2]), _mm256_add_pd(v.quarter[1], v.quarter[3]));
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

inline I16 Zero16I() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline I16 Broadcast16I(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline V16 AsFloat(I16 v) { return {_mm256_castsi256_ps(v.low), _mm256_castsi256_ps(v.high)}; }
inline V16 FloatOfU8(const void* p) {
  const __m128i b = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(b, 8)))};
}
inline V16 FloatOfS8(const void* p) {
  const __m128i b = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(b, 8)))};
}
inline int32_t Sum(I16 v) {
  const __m256i eight = _mm256_add_epi32(v.low, v.high);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
}
inline I16 Add(I16 a, I16 b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
inline I16 BitsMinus(V16 v, int32_t n) {
  const __m256i all = _mm256_set1_epi32(n);
  return {_mm256_sub_epi32(_mm256_castps_si256(v.low), all), _mm256_sub_epi32(_mm256_castps_si256(v.high), all)};
}
inline void StoreLowBytes(int8_t* p, I16 v) {               // of numbers within [-128, 127]
  const __m256i words = _mm256_packs_epi32(v.low, v.high);  // 0-3 8-11 4-7 12-15
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

inline Bytes LoadBytes(const std::byte* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
inline Bytes Mask(Bytes b, int mask) {
  const __m256i all = _mm256_set1_epi8(static_cast<char>(mask));
  return {_mm256_and_si256(b.low, all), _mm256_and_si256(b.high, all)};
}
inline Bytes LowNibbles(Bytes b) { return Mask(b, 0x0F); }
inline Bytes HighNibbles(Bytes b) { return Mask({_mm256_srli_epi16(b.low, 4), _mm256_srli_epi16(b.high, 4)}, 0x0F); }
template <int kFrom, int kTo, int kMask>
inline Bytes MoveBits(Bytes b) {
  if constexpr (kFrom > kTo) b = {_mm256_srli_epi16(b.low, kFrom - kTo), _mm256_srli_epi16(b.high, kFrom - kTo)};
  if constexpr (kFrom < kTo) b = {_mm256_slli_epi16(b.low, kTo - kFrom), _mm256_slli_epi16(b.high, kTo - kFrom)};
  return Mask(b, kMask << kTo);
}
inline Bytes Or(Bytes a, Bytes b) { return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)}; }

using Quad = __m256i;
inline Quad BroadcastQuad(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, sizeof four);
  return _mm256_set1_epi32(four);
}
#if BRAID_HAS_VNNI
template <int kBits>
inline I16 Dot4(I16 acc, Bytes w, Quad x) {
  return {_mm256_dpbusd_avx_epi32(acc.low, w.low, x), _mm256_dpbusd_avx_epi32(acc.high, w.high, x)};
}
#else
// vpmaddubsw adds two products in 16 bits with saturation: exact up to 7 bits of w. Eight bits go nibble by nibble.
inline __m256i Dot4Of7Bits(__m256i acc, __m256i w, __m256i x, int times) {
  return _mm256_add_epi32(
      acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(static_cast<int16_t>(times))));
}
template <int kBits>
inline I16 Dot4(I16 acc, Bytes w, Quad x) {
  if constexpr (kBits <= 7) return {Dot4Of7Bits(acc.low, w.low, x, 1), Dot4Of7Bits(acc.high, w.high, x, 1)};
  const Bytes low = LowNibbles(w), high = HighNibbles(w);
  return {Dot4Of7Bits(Dot4Of7Bits(acc.low, low.low, x, 1), high.low, x, 16),
          Dot4Of7Bits(Dot4Of7Bits(acc.high, low.high, x, 1), high.high, x, 16)};
}
#endif

// Two rows by one half: eight accumulators of sixteen registers.
inline constexpr int kPanelRows = 2;
inline constexpr int kPanelHalves = 1;
// Keys or values of a tile of six rows of attention: 12 accumulators of 16 registers.
inline constexpr int kAttentionVectors = 1;

}  // namespace braid::BRAID_LEVEL
