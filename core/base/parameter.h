// One description of a parameter, from which the command line, --explain, the documentation table, the desktop
// program's form and the conformance tests all come.
#pragma once

#include <limits>
#include <map>
#include <string>
#include <vector>

namespace kvreplay {

enum class ParameterType { integer, real, boolean, choice, text };

struct Parameter {
  std::string key;  // "window"
  ParameterType type = ParameterType::integer;
  std::string doc;  // one line: meaning and unit
  double minimum = -std::numeric_limits<double>::infinity();
  double maximum = std::numeric_limits<double>::infinity();
  std::vector<std::string> choices;             // for ParameterType::choice
  std::map<std::string, std::string> defaults;  // by variant: {"paper": "32", "released": "32"}
  bool required = false;                        // has no default (an empty one in `defaults`): it has to be given
  // The parameter exists only where every one of these other keys, which come before it, has one of the values:
  // {{"pooling", {"avg", "max"}}}. Several parameters may share a key if their conditions exclude each other.
  std::map<std::string, std::vector<std::string>> only_with;

  // Whether it exists in a variant, among these values of other keys.
  bool applies(const std::string& variant, const std::map<std::string, std::string>& values) const;
  // "pooling=avg or max": empty without a condition.
  std::string condition() const;
  // "integer in [1, 4096]", "avg, max, adaptive or none": what an error message says is allowed.
  std::string allowed() const;
  // Throws Error naming `owner` (for example "policy snapkv"), the key and what is allowed. Returns the canonical text.
  std::string check(const std::string& owner, const std::string& value) const;
};

}  // namespace kvreplay
