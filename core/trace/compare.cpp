#include "core/trace/compare.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/trace/compare_internal.h"
#include "core/trace/source_internal.h"

namespace kvreplay {
namespace {

std::string format_of(const std::string& path, Trust trust) {
  const auto value = open_source(path, trust)->attribute("/", "format");
  const auto* text = value ? std::get_if<std::string>(&*value) : nullptr;
  return text == nullptr ? std::string() : *text;
}

}  // namespace

std::string shown(const std::string& text) {
  constexpr std::size_t longest = 60;
  if (text.empty()) return "nothing";
  std::string out = printable(text);
  if (out.size() > longest) out = out.substr(0, longest) + "...";
  return "\"" + out + "\"";
}
std::string shown(std::int64_t value) { return std::to_string(value); }
std::string shown(double value) { return format_number(value); }
std::string shown(const std::optional<double>& value) { return value ? format_number(*value) : "nothing"; }

void ValueComparison::add(const float* a, const float* b, std::size_t count, std::int64_t index) {
  for (std::size_t i = 0; i < count; ++i) {
    if (std::isfinite(a[i])) largest_ = std::max(largest_, std::abs(static_cast<double>(a[i])));
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    if (first_ < 0) first_ = index + static_cast<std::int64_t>(i);
    ++count_;
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (std::isfinite(difference))
      max_absolute_ = std::max(max_absolute_, difference);
    else
      mismatched_nan_ = true;
  }
}

bool ValueComparison::differs(double tolerance) const {
  return mismatched_nan_ || (first_ >= 0 && max_absolute_ > tolerance * largest_);
}

std::string position_text(std::int64_t index, const std::vector<std::int64_t>& shape) {
  std::vector<std::string> parts(shape.size());
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    const std::int64_t n = std::max<std::int64_t>(1, shape[axis]);
    parts[axis] = std::to_string(index % n);
    index /= n;
  }
  return "[" + join(parts, ", ") + "]";
}

std::vector<Difference> compare_files(const std::string& path_a, const std::string& path_b, const CompareOptions& options,
                                      Job& job) {
  const std::string a = format_of(path_a, options.trust), b = format_of(path_b, options.trust);
  const bool results = a == "kvreplay-results" && b == "kvreplay-results";
  if (!results && (a == "kvreplay-results" || b == "kvreplay-results"))
    throw Error(a == "kvreplay-results" ? path_b : path_a, "is no results file, and the other one is",
                "compare two traces, or two results files");
  Differences differences;
  if (results)
    compare_results(path_a, path_b, options, differences, job);
  else
    compare_traces(path_a, path_b, options, differences, job);
  std::stable_sort(differences.all.begin(), differences.all.end(),
                   [](const Difference& x, const Difference& y) { return x.rank < y.rank; });
  return std::move(differences.all);
}

}  // namespace kvreplay
