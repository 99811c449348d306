// A JSON object from an untrusted file, with checked access: every error names the file and the key.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "core/base/error.h"

namespace kvreplay::json_file {

// The whole file; at most `limit` bytes. Throws Error when it cannot be read.
std::string read_text(const std::string& path, std::int64_t limit = std::int64_t{1} << 28);
// The file's one JSON object. Throws Error when it is none.
nlohmann::json read_object(const std::string& path);

// `owner` is the file (and the object in it) that messages name.
class Reader {
 public:
  Reader(std::string owner, const nlohmann::json& object) : owner_(std::move(owner)), object_(object) {}

  // Absent and null are the same to all of these.
  bool has(const char* key) const { return object_.contains(key) && !object_.at(key).is_null(); }
  const nlohmann::json& at(const char* key) const { return object_.at(key); }
  const std::string& owner() const { return owner_; }

  std::int64_t integer(const char* key, std::int64_t minimum, std::int64_t maximum,
                       std::optional<std::int64_t> absent = {}) const;
  double real(const char* key, double minimum, double maximum, std::optional<double> absent = {}) const;
  bool boolean(const char* key, bool absent) const;
  std::string text(const char* key, const std::optional<std::string>& absent = {}) const;

 private:
  [[noreturn]] void fail(const char* key, const std::string& what) const;
  std::string owner_;
  const nlohmann::json& object_;
};

}  // namespace kvreplay::json_file
