#include "core/report/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace kvreplay {
namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

// splitmix64: the same numbers on every machine, which the standard library's distributions do not promise.
std::uint64_t next_random(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9E3779B97F4A7C15ULL);
  z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31U);
}

}  // namespace

double quantile(std::span<const double> ascending, double q) {
  if (ascending.empty()) return not_a_number;
  const double place = q * static_cast<double>(ascending.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const auto above = std::min(below + 1, ascending.size() - 1);
  // Not a + s (b - a) when both are infinite: that is NaN.
  if (ascending[below] == ascending[above]) return ascending[below];
  return ascending[below] + (place - static_cast<double>(below)) * (ascending[above] - ascending[below]);
}

Distribution distribution_of(std::vector<double> values) {
  std::erase_if(values, [](double value) { return std::isnan(value); });
  std::sort(values.begin(), values.end());
  Distribution out;
  out.count = static_cast<std::int64_t>(values.size());
  if (values.empty()) {
    out.mean = out.minimum = out.maximum = not_a_number;
  } else {
    out.mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
    out.minimum = values.front(), out.maximum = values.back();
  }
  out.p1 = quantile(values, 0.01), out.p5 = quantile(values, 0.05), out.median = quantile(values, 0.5);
  out.p95 = quantile(values, 0.95), out.p99 = quantile(values, 0.99);
  return out;
}

Interval bootstrap_mean(std::span<const double> values, std::uint64_t seed) {
  static constexpr int resamples = 2000;
  if (values.size() < 2) return {not_a_number, not_a_number};
  std::vector<double> means;
  means.reserve(resamples);
  for (int i = 0; i < resamples; ++i) {
    double sum = 0;
    for (std::size_t k = 0; k < values.size(); ++k) sum += values[next_random(seed) % values.size()];
    means.push_back(sum / static_cast<double>(values.size()));
  }
  std::sort(means.begin(), means.end());
  return {quantile(means, 0.025), quantile(means, 0.975)};
}

}  // namespace kvreplay
