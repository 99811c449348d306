#include "core/report/numbers.h"

#include <array>
#include <cmath>
#include <cstdio>

#include "core/base/text.h"

namespace kvreplay {

std::string report_number(double value) {
  if (std::isnan(value)) return "–";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  if (value == 0) return "0";
  const double size = std::abs(value);
  const char* format = size >= 100 ? "%.0f" : size >= 10 ? "%.1f" : size >= 1 ? "%.3f" : size >= 0.001 ? "%.4f" : "%.1e";
  std::array<char, 32> buffer{};
  std::snprintf(buffer.data(), buffer.size(), format, value);
  return buffer.data();
}

std::string report_interval(double low, double high) {
  return std::isnan(low) || std::isnan(high) ? "–" : report_number(low) + " – " + report_number(high);
}

std::string report_signed(double value) {
  const std::string text = report_number(value);
  return value > 0 ? "+" + text : text;
}

std::string report_percent(double share) { return format_number(std::round(share * 1000) / 10) + " %"; }

std::string report_count(std::int64_t count) {
  std::string text = std::to_string(count);
  for (std::size_t i = text.size(); i > (count < 0 ? 4U : 3U);) {
    i -= 3;
    text.insert(i, 1, ',');
  }
  return text;
}

std::string lower_first(std::string title) {
  const auto upper = [](char c) { return c >= 'A' && c <= 'Z'; };
  if (title.size() > 1 && upper(title[0]) && !upper(title[1])) title[0] = static_cast<char>(title[0] - 'A' + 'a');
  return title;
}

}  // namespace kvreplay
