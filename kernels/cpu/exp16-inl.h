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

// 2^x for x <= 0, within 1.5 * 2^-24 of it; 2^-126 below -126, NaN for NaN, exactly 1 for 0.
inline V16 Exp2(V16 x) {
  const V16 clamped = Max(Broadcast16(-126.0f), x);
  // Adding it leaves the nearest integer plus 127 in the low bits, which is the exponent's field when shifted up.
  const V16 round = Broadcast16(12582912.0f + 127.0f);
  const V16 shifted = Add(clamped, round);
  const V16 r = Sub(clamped, Sub(shifted, round));
  V16 p = Broadcast16(1.53533620e-4f);  // minimax for the relative error on [-1/2, 1/2], with the constant term 1
  for (const float c : {1.33988750e-3f, 9.61843692e-3f, 5.55033237e-2f, 2.40226477e-1f, 6.93147182e-1f, 1.0f})
    p = Fma(p, r, Broadcast16(c));
  return Mul(p, ShiftBitsLeft23(shifted));
}

}  // namespace braid::BRAID_LEVEL
