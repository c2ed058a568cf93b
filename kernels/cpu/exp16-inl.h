// e^x and 2^x of sixteen floats for one level. Included once per level, after the level's vectors.

namespace braid::BRAID_LEVEL {

// e^x, with the operations of kernels/exp.h.
inline V16 Exp16(V16 x) {
  const V16 lowest = Broadcast16(-87.3f), highest = Broadcast16(88.3f), round = Broadcast16(12582912.0f);
  const V16 clamped = SelectLess(x, lowest, lowest, SelectLess(highest, x, highest, x));
  const V16 shifted = Add(Mul(clamped, Broadcast16(1.44269504f)), round);
  const V16 n = Sub(shifted, round);
  const V16 r = Sub(Sub(clamped, Mul(n, Broadcast16(0.693359375f))), Mul(n, Broadcast16(-2.12194440e-4f)));
  V16 p = Broadcast16(1.9875691500e-4f);
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = Add(Mul(p, r), Broadcast16(c));
  p = Add(Add(Mul(Mul(p, r), r), r), Broadcast16(1.0f));
  const V16 result = Mul(p, ShiftBitsLeft23(AddBits(shifted, 127 - 0x4B400000)));
  const V16 infinite = Broadcast16(std::numeric_limits<float>::infinity());
  return SelectLess(x, lowest, Zero16(), SelectLess(highest, x, infinite, result));
}

// x = 2^x for x <= 0, N vectors abreast: within 1.5 * 2^-24 of it; 2^-126 below -126, NaN for NaN, exactly 1 for 0.
template <int N>
[[gnu::always_inline]] inline void Exp2(V16 (&x)[N]) {
  const V16 lowest = Broadcast16(-126.0f);
  // Adding it leaves the nearest integer plus 127 in the low bits, which is the exponent's field when shifted up.
  const V16 round = Broadcast16(12582912.0f + 127.0f);
  V16 shifted[N], p[N];
  BRAID_UNROLL for (int i = 0; i < N; ++i) {
    x[i] = Max(lowest, x[i]);
    shifted[i] = Add(x[i], round);
    x[i] = Sub(x[i], Sub(shifted[i], round));
  }
  // Minimax for the relative error on [-1/2, 1/2], with the constant term 1.
  BRAID_UNROLL for (int i = 0; i < N; ++i) p[i] = Fma(Broadcast16(1.53533620e-4f), x[i], Broadcast16(1.33988750e-3f));
  BRAID_UNROLL for (int i = 0; i < N; ++i) p[i] = Fma(p[i], x[i], Broadcast16(9.61843692e-3f));
  BRAID_UNROLL for (int i = 0; i < N; ++i) p[i] = Fma(p[i], x[i], Broadcast16(5.55033237e-2f));
  BRAID_UNROLL for (int i = 0; i < N; ++i) p[i] = Fma(p[i], x[i], Broadcast16(2.40226477e-1f));
  BRAID_UNROLL for (int i = 0; i < N; ++i) p[i] = Fma(p[i], x[i], Broadcast16(6.93147182e-1f));
  BRAID_UNROLL for (int i = 0; i < N; ++i) p[i] = Fma(p[i], x[i], Broadcast16(1.0f));
  BRAID_UNROLL for (int i = 0; i < N; ++i) x[i] = Mul(p[i], ShiftBitsLeft23(shifted[i]));
}
inline V16 Exp2(V16 x) {
  V16 one[1] = {x};
  Exp2(one);
  return one[0];
}

}  // namespace braid::BRAID_LEVEL
