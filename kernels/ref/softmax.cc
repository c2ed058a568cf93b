#include "kernels/softmax.h"

#include <cmath>

namespace braid::ref {

double Weigh(const SoftmaxWeights& weights, const float* x, int n, double* w) {
  double sum = 0;
  for (int i = 0; i < n; ++i) {
    w[i] = std::exp((double{x[i]} - double{weights.max}) * double{weights.inverse_temperature});
    if (x[i] < weights.logit_min || w[i] < double{weights.weight_min}) w[i] = 0;
    sum += w[i];
  }
  return sum;
}

}  // namespace braid::ref
