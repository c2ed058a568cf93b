// Walks over a row of logits for one level; softmax.h says what they give. Included once per level, after the level's
// vectors. Behind the last value of a row come as many -infinities as its vector has room for: they weigh nothing.

namespace braid::BRAID_LEVEL {

inline V16 LoadUpTo16(const float* x, int n) {
  if (n >= 16) return Load16(x);
  float padded[16];
  for (int i = 0; i < 16; ++i) padded[i] = i < n ? x[i] : -std::numeric_limits<float>::infinity();
  return Load16(padded);
}

bool BlockMaxima(const float* x, int n, float* maxima) {
  constexpr int kAbreast = 4;  // an addition takes as many cycles
  V16 poison[kAbreast];        // x - x is 0, or NaN for what is not finite, and NaN stays in a sum
  BRAID_UNROLL for (int j = 0; j < kAbreast; ++j) poison[j] = Zero16();
  int begin = 0;
  for (; begin + kLogitBlock <= n; begin += kLogitBlock) {
    const float* block = x + begin;
    V16 max[kAbreast];
    BRAID_UNROLL for (int j = 0; j < kAbreast; ++j) max[j] = Load16(block + 16 * j);
    for (int i = 0; i < kLogitBlock; i += 16 * kAbreast) {
      BRAID_UNROLL for (int j = 0; j < kAbreast; ++j) {
        const V16 values = Load16(block + i + 16 * j);
        max[j] = Max(values, max[j]);
        poison[j] = Add(poison[j], Sub(values, values));
      }
    }
    *maxima++ = MaxLane(Max(Max(max[0], max[1]), Max(max[2], max[3])));
  }
  float rest = 0;
  if (begin < n) {
    float max = x[begin];
    for (int i = begin; i < n; ++i) {
      max = x[i] > max ? x[i] : max;
      rest += x[i] - x[i];
    }
    *maxima = max;
  }
  return rest + Sum(Add(Add(poison[0], poison[1]), Add(poison[2], poison[3]))) == 0;
}

// The weights' parameters, in registers.
struct Weigher {
  explicit Weigher(const SoftmaxWeights& w)
      : max(Broadcast16(w.max)),
        inverse_temperature(Broadcast16(w.inverse_temperature)),
        logit_min(Broadcast16(w.logit_min)),
        weight_min(Broadcast16(w.weight_min)) {}

  V16 Weight(V16 x) const {
    const V16 weight = Exp16(Mul(Sub(x, max), inverse_temperature));
    return SelectLess(x, logit_min, Zero16(), SelectLess(weight, weight_min, Zero16(), weight));
  }

  V16 max, inverse_temperature, logit_min, weight_min;
};

double Weigh(const SoftmaxWeights& weights, const float* x, int n, float* w) {
  const Weigher weigher(weights);
  D16 sum = ZeroD16();
  for (int i = 0; i < n; i += 16) {
    const V16 weight = weigher.Weight(LoadUpTo16(x + i, n - i));
    sum = AddWide(sum, weight);
    if (n - i >= 16) {
      Store(w + i, weight);
    } else {
      float last[16];
      Store(last, weight);
      std::copy_n(last, n - i, w + i);
    }
  }
  return Sum(sum);
}

void AddToBuckets(const SoftmaxWeights& weights, const float* x, int n, BucketSums* sums) {
  const Weigher weigher(weights);
  const V16 scale = Broadcast16(weights.bucket_scale), per_unit = Broadcast16(SoftmaxWeights::kBucketsPerUnit);
  const V16 last = Broadcast16(1.0f - SoftmaxWeights::kBuckets), magic = Broadcast16(12582912.0f);
  for (int i = 0; i < n; i += 16) {
    const V16 values = LoadUpTo16(x + i, n - i);
    float weight[16], bucket[16];  // the bucket's number is in the low bits
    Store(weight, weigher.Weight(values));
    Store(bucket, Sub(magic, Max(Mul(Mul(Sub(values, weigher.max), scale), per_unit), last)));
    BRAID_UNROLL for (int j = 0; j < 16; ++j) {
      sums[std::bit_cast<uint32_t>(bucket[j]) & 0xFFFF][j % 4] += static_cast<double>(weight[j]);
    }
  }
}

int FindInRange(const float* x, int n, float low, float high, int32_t* found) {
  const V16 lows = Broadcast16(low), highs = Broadcast16(high);
  int count = 0;
  for (int i = 0; i < n; i += 16) {
    const V16 values = LoadUpTo16(x + i, n - i);
    uint32_t bits = LessBits(values, highs) & ~LessBits(values, lows);
    if (n - i < 16) bits &= (1u << (n - i)) - 1;
    for (; bits != 0; bits &= bits - 1) found[count++] = i + std::countr_zero(bits);
  }
  return count;
}

}  // namespace braid::BRAID_LEVEL
