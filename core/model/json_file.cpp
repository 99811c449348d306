#include "core/model/json_file_internal.h"

#include <sys/stat.h>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>

#include "core/base/text.h"

namespace kvreplay::json_file {

std::string read_text(const std::string& path, std::int64_t limit) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) throw Error(path, std::string("cannot be read: ") + std::strerror(errno));
  if (!S_ISREG(status.st_mode)) throw Error(path, "is not a file");
  if (status.st_size > limit) throw Error(path, "is larger than " + format_bytes(static_cast<double>(limit)));
  std::ifstream file(path, std::ios::binary);
  std::string text(static_cast<std::size_t>(status.st_size), '\0');
  if (!file || !file.read(text.data(), status.st_size)) throw Error(path, "cannot be read");
  return text;
}

nlohmann::json read_object(const std::string& path) {
  nlohmann::json value = nlohmann::json::parse(read_text(path), nullptr, false);
  if (value.is_discarded()) throw Error(path, "is not valid JSON");
  if (!value.is_object()) throw Error(path, "is not a JSON object");
  return value;
}

void Reader::fail(const char* key, const std::string& what) const {
  throw Error(owner_, "\"" + std::string(key) + "\" " + what);
}

std::int64_t Reader::integer(const char* key, std::int64_t minimum, std::int64_t maximum,
                             std::optional<std::int64_t> absent) const {
  if (!has(key)) {
    if (!absent) fail(key, "is missing");
    return *absent;
  }
  const auto& value = at(key);
  const bool whole =
      value.is_number_integer() || (value.is_number_float() && std::nearbyint(value.get<double>()) == value.get<double>());
  // As a double first: an unsigned number above the range of int64 must not wrap.
  const double approximate = value.is_number() ? value.get<double>() : 0;
  if (!whole || approximate < static_cast<double>(minimum) || approximate > static_cast<double>(maximum))
    fail(key, "must be an integer in [" + std::to_string(minimum) + ", " + std::to_string(maximum) + "]");
  return static_cast<std::int64_t>(approximate);
}

double Reader::real(const char* key, double minimum, double maximum, std::optional<double> absent) const {
  if (!has(key)) {
    if (!absent) fail(key, "is missing");
    return *absent;
  }
  const auto& value = at(key);
  const double number = value.is_number() ? value.get<double>() : std::nan("");
  if (!(number >= minimum && number <= maximum))
    fail(key, "must be a number in [" + format_number(minimum) + ", " + format_number(maximum) + "]");
  return number;
}

bool Reader::boolean(const char* key, bool absent) const {
  if (!has(key)) return absent;
  if (!at(key).is_boolean()) fail(key, "must be true or false");
  return at(key).get<bool>();
}

std::string Reader::text(const char* key, const std::optional<std::string>& absent) const {
  if (!has(key)) {
    if (!absent) fail(key, "is missing");
    return *absent;
  }
  if (!at(key).is_string()) fail(key, "must be a string");
  return at(key).get<std::string>();
}

}  // namespace kvreplay::json_file
