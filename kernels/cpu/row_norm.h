#pragma once

#include <cmath>

namespace braid {

// 1 / sqrt(mean(x^2) + eps) in double, in eight lanes so that it vectorises.
inline float InverseRms(const float* x, int n, float eps) {
  double lanes[8] = {};
  int i = 0;
  for (; i + 8 <= n; i += 8)
    for (int l = 0; l < 8; ++l) lanes[l] += static_cast<double>(x[i + l]) * static_cast<double>(x[i + l]);
  for (int l = 0; i < n; ++i, ++l) lanes[l] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return static_cast<float>(1.0 / std::sqrt(sum / n + static_cast<double>(eps)));
}

}  // namespace braid
