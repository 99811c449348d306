#include "core/base/parameter.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/base/error.h"
#include "core/base/text.h"

namespace kvreplay {

bool Parameter::applies(const std::string& variant, const std::map<std::string, std::string>& values) const {
  return defaults.count(variant) != 0 && std::all_of(only_with.begin(), only_with.end(), [&](const auto& condition) {
           const auto value = values.find(condition.first);
           const auto& usable = condition.second;
           return value != values.end() && std::find(usable.begin(), usable.end(), value->second) != usable.end();
         });
}

std::string Parameter::condition() const {
  std::vector<std::string> parts;
  for (const auto& [other, values] : only_with) parts.push_back(other + "=" + join(values, ", ", " or "));
  return join(parts, " and ");
}

std::string Parameter::allowed() const {
  switch (type) {
    case ParameterType::boolean: return "true or false";
    case ParameterType::text: return "text";
    case ParameterType::choice: return join(choices, ", ", " or ");
    case ParameterType::integer:
    case ParameterType::real: break;
  }
  std::string range = type == ParameterType::integer ? "an integer" : "a number";
  const bool low = std::isfinite(minimum), high = std::isfinite(maximum);
  if (low && high) return range + " from " + format_number(minimum) + " to " + format_number(maximum);
  if (low) return range + " of at least " + format_number(minimum);
  if (high) return range + " of at most " + format_number(maximum);
  return range;
}

std::string Parameter::check(const std::string& owner, const std::string& value) const {
  const auto refuse = [&]() -> std::string {
    throw Error(owner, "\"" + value + "\" is not allowed for \"" + key + "\"", "it takes " + allowed());
  };
  switch (type) {
    case ParameterType::text: return value.empty() ? refuse() : value;
    case ParameterType::boolean: return value == "true" || value == "false" ? value : refuse();
    case ParameterType::choice: return std::find(choices.begin(), choices.end(), value) != choices.end() ? value : refuse();
    case ParameterType::integer: {
      long long parsed = 0;
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), parsed);
      if (error != std::errc{} || end != value.data() + value.size()) return refuse();
      if (static_cast<double>(parsed) < minimum || static_cast<double>(parsed) > maximum) return refuse();
      return std::to_string(parsed);
    }
    case ParameterType::real: {
      double parsed = 0;
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), parsed);
      if (error != std::errc{} || end != value.data() + value.size()) return refuse();
      if (!std::isfinite(parsed) || parsed < minimum || parsed > maximum) return refuse();
      return format_number(parsed);
    }
  }
  return refuse();
}

}  // namespace kvreplay
