// Euclidean distance in float64, for metrics of output vectors.
#pragma once

#include <cmath>
#include <span>

namespace kvreplay {

inline double distance(std::span<const double> a, std::span<const double> b) {
  double total = 0;
  for (std::size_t i = 0; i < a.size(); ++i) total += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(total);
}

}  // namespace kvreplay
