#include "gpu/architectures.h"

#include <charconv>

namespace kvreplay::cuda {
namespace {

bool runs(std::string_view architecture, int major, int minor) {
  int number = 0;
  const auto [end, error] = std::from_chars(architecture.data(), architecture.data() + architecture.size(), number);
  if (error != std::errc()) return false;
  const std::string_view rest(end, static_cast<std::size_t>(architecture.data() + architecture.size() - end));
  const int device = major * 10 + minor;
  if (rest.starts_with("a")) return number == device;
  if (number > device) return false;
  return number / 10 == major || rest != "-real";
}

}  // namespace

bool has_code_for(std::string_view architectures, int major, int minor) {
  while (!architectures.empty()) {
    const std::size_t end = architectures.find_first_of(";,");
    if (runs(architectures.substr(0, end), major, minor)) return true;
    architectures = end == std::string_view::npos ? std::string_view() : architectures.substr(end + 1);
  }
  return false;
}

}  // namespace kvreplay::cuda
