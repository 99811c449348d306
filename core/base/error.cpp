#include "core/base/error.h"

#include <algorithm>

namespace kvreplay {
namespace {

std::string one_line(const std::string& where, const std::string& what, const std::string& remedy) {
  std::string line = where;
  if (!line.empty()) line += ": ";
  line += what;
  if (!remedy.empty()) line += "; " + remedy;
  // Names in a message may come from a stranger's file: no control characters reach a terminal.
  std::replace_if(
      line.begin(), line.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  return line;
}

}  // namespace

Error::Error(const std::string& where, const std::string& what, const std::string& remedy)
    : std::runtime_error(one_line(where, what, remedy)) {}

}  // namespace kvreplay
