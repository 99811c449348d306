// Means, quantiles and intervals, the same in every table and figure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kvreplay {

// Of the values that are not NaN; all NaN when there are none.
struct Distribution {
  std::int64_t count = 0;
  double mean = 0, minimum = 0, p1 = 0, p5 = 0, median = 0, p95 = 0, p99 = 0, maximum = 0;
};
Distribution distribution_of(std::vector<double> values);

// Of ascending values, at share q in [0, 1], linear between neighbours (numpy's default).
double quantile(std::span<const double> ascending, double q);

struct Interval {
  double low = 0, high = 0;
};
// 95 % percentile-bootstrap interval of the mean: 2,000 resamples drawn with a fixed seed. NaN for fewer than two values.
Interval bootstrap_mean(std::span<const double> values, std::uint64_t seed = 1);

}  // namespace kvreplay
