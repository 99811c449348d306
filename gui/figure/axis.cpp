#include "gui/figure/axis.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace kvreplay::figure {
namespace {

std::string fixed(double value, int decimals) {
  std::array<char, 64> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "%.*f", decimals, value == 0 ? 0.0 : value);
  return buffer.data();
}

std::string with_thousands(std::string text) {
  const std::size_t start = !text.empty() && text[0] == '-' ? 1 : 0;
  const std::size_t point = std::min(text.find('.'), text.size());
  for (std::size_t i = point; i > start + 3;) {
    i -= 3;
    text.insert(i, 1, ',');
  }
  return text;
}

std::string power_of_ten(int exponent) {
  static constexpr std::array<const char*, 10> superscript = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string text = "10";
  if (exponent < 0) text += "⁻";
  for (char digit : std::to_string(std::abs(exponent))) text += superscript[static_cast<std::size_t>(digit - '0')];
  return text;
}

std::string log_label(double value) {
  const double exponent = std::log10(value);
  const bool power = std::abs(exponent - std::round(exponent)) < 1e-9;
  if (power && (exponent < -3.5 || exponent > 5.5)) return power_of_ten(static_cast<int>(std::round(exponent)));
  return number_label(value);
}

}  // namespace

std::string number_label(double value, int digits) {
  if (value == 0) return "0";
  if (!std::isfinite(value)) return std::isnan(value) ? "–" : value > 0 ? "∞" : "−∞";
  const double size = std::abs(value);
  std::array<char, 64> buffer{};
  if (size < 1e-4 || size >= 1e9) {
    std::snprintf(buffer.data(), buffer.size(), "%.*e", std::max(0, digits - 1), value);
    std::string text = buffer.data();
    // 1.00e-05 → 1e-05
    const auto mark = text.find('e');
    std::string mantissa = text.substr(0, mark);
    if (mantissa.find('.') != std::string::npos) {
      while (mantissa.back() == '0') mantissa.pop_back();
      if (mantissa.back() == '.') mantissa.pop_back();
    }
    return mantissa + text.substr(mark);
  }
  const int decimals = std::clamp(digits - 1 - static_cast<int>(std::floor(std::log10(size))), 0, 12);
  std::string text = fixed(value, decimals);
  if (text.find('.') != std::string::npos) {
    while (text.back() == '0') text.pop_back();
    if (text.back() == '.') text.pop_back();
  }
  return with_thousands(text);
}

std::vector<Tick> linear_ticks(double low, double high, int count, bool integers) {
  if (!(high > low)) return {{low, number_label(low)}};
  const double rough = (high - low) / std::max(1, count);
  double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (double multiple : {1.0, 2.0, 2.5, 5.0}) {
    if (multiple * power >= rough * (1 - 1e-9)) {
      step = multiple * power;
      break;
    }
  }
  if (integers) step = std::max(1.0, std::ceil(step));
  int decimals = 0;
  while (decimals < 12 && std::abs(step * std::pow(10.0, decimals) - std::round(step * std::pow(10.0, decimals))) > 1e-6)
    ++decimals;
  std::vector<Tick> ticks;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i)
    ticks.push_back({i * step, with_thousands(fixed(i * step, decimals))});
  return ticks;
}

std::vector<Tick> log_ticks(double low, double high, int count) {
  if (!(low > 0) || !(high > low)) return {};
  const double decades = std::log10(high / low);
  std::vector<double> multiples = {1};
  if (decades * 3 <= count) multiples = {1, 2, 5};
  // No 4, 6, 8 and 9: their numbers would run into each other.
  if (decades * 9 <= count) multiples = {1, 2, 3, 5, 7};
  const int every = std::max(1, static_cast<int>(std::ceil(decades / std::max(1, count))));
  std::vector<Tick> ticks;
  for (int exponent = static_cast<int>(std::floor(std::log10(low))); exponent <= std::ceil(std::log10(high)); ++exponent) {
    if (exponent % every != 0) continue;
    for (double multiple : multiples) {
      const double value = multiple * std::pow(10.0, exponent);
      if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) ticks.push_back({value, log_label(value)});
    }
  }
  // Less than a step of 1 within the range: a linear axis has ticks there.
  return ticks.size() >= 2 ? ticks : linear_ticks(low, high, std::min(count, 4));
}

double Range::at(double value) const {
  if (logarithmic) return std::log(value / low) / std::log(high / low);
  return (value - low) / (high - low);
}

Range axis_range(const Axis& axis, double low, double high) {
  Range range{low, high, axis.logarithmic};
  if (!(low <= high)) range.low = axis.logarithmic ? 0.1 : 0, range.high = 1;
  if (axis.logarithmic) {
    if (range.low == range.high) range.low /= 2, range.high *= 2;
    const double margin = std::pow(range.high / range.low, 0.04);
    range.low /= margin, range.high *= margin;
  } else {
    const bool from_zero = range.low >= 0 && range.low < 0.6 * range.high;
    const double width = range.high > range.low ? range.high - range.low : std::max(1.0, std::abs(range.high));
    if (range.low == range.high) range.low -= width / 2, range.high += width / 2;
    range.low = from_zero ? 0 : range.low - 0.04 * width;
    range.high += 0.04 * width;
  }
  if (axis.minimum) range.low = *axis.minimum;
  if (axis.maximum) range.high = *axis.maximum;
  return range;
}

}  // namespace kvreplay::figure
