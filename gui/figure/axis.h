// Axes: where ticks go and how their numbers are written.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace kvreplay::figure {

struct Tick {
  double value = 0;
  std::string label;  // "\n" starts a second line; empty: a tick without a number
};

struct Axis {
  std::string label;  // with its unit: "budget (tokens per head)"
  bool logarithmic = false;
  bool integers = false;  // layers, steps: no tick between whole numbers
  std::optional<double> minimum, maximum;
  std::vector<Tick> ticks;  // empty: computed
};

// At most `count` ticks within [low, high] at 1, 2, 2.5 or 5 times a power of ten, written with equally many decimals.
std::vector<Tick> linear_ticks(double low, double high, int count, bool integers = false);

// Ticks within [low, high] (both above 0): powers of ten where there are several, else 1, 2, 5 times them.
std::vector<Tick> log_ticks(double low, double high, int count);

// "0.25", "4,096", "2.3e-05": at most `digits` significant digits, thousands set apart.
std::string number_label(double value, int digits = 3);

// A data range made fit for an axis, and the place of a value on it.
struct Range {
  double low = 0, high = 1;
  bool logarithmic = false;
  double at(double value) const;  // 0 at low, 1 at high; not clamped
};

// The range of an axis that shows [low, high]: its own limits where it has them; linear ones start at 0 when the data
// come near it.
Range axis_range(const Axis& axis, double low, double high);

}  // namespace kvreplay::figure
