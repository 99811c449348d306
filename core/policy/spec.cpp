#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/policy/policy.h"

namespace kvreplay {
namespace {

const Parameter* find_parameter(const PolicyDescription& policy, const std::string& key, const std::string& variant) {
  for (const Parameter& parameter : policy.parameters)
    if (parameter.key == key && parameter.defaults.count(variant) != 0) return &parameter;
  return nullptr;
}

std::vector<std::string> keys_of(const PolicyDescription& policy, const std::string& variant) {
  std::vector<std::string> keys;
  for (const Parameter& parameter : policy.parameters)
    if (parameter.defaults.count(variant) != 0) keys.push_back(parameter.key);
  return keys;
}

}  // namespace

std::string_view granularity_name(Granularity granularity) {
  switch (granularity) {
    case Granularity::query_head: return "query_head";
    case Granularity::kv_head: return "kv_head";
    case Granularity::layer: return "layer";
  }
  return "unknown";
}

std::int64_t granularity_heads(Granularity granularity, const ModelInfo& model) {
  if (granularity == Granularity::layer) return 1;
  return granularity == Granularity::query_head ? model.num_query_heads : model.num_kv_heads;
}

std::int64_t stored_heads(Granularity granularity, const ModelInfo& model) {
  return granularity == Granularity::query_head ? model.num_query_heads : model.num_kv_heads;
}

int ParameterValues::integer(const std::string& key) const {
  const std::string& value = values_.at(key);
  int parsed = 0;
  std::from_chars(value.data(), value.data() + value.size(), parsed);
  return parsed;
}

double ParameterValues::real(const std::string& key) const {
  const std::string& value = values_.at(key);
  double parsed = 0;
  std::from_chars(value.data(), value.data() + value.size(), parsed);
  return parsed;
}

PolicySpec parse_policy(std::string_view text) {
  const auto colon = text.find(':');
  const std::string head(text.substr(0, colon));
  const auto at = head.find('@');
  PolicySpec spec;
  spec.description = &find_policy(head.substr(0, at));
  const PolicyDescription& policy = *spec.description;

  std::vector<std::string> variants;
  for (const auto& variant : policy.variants) variants.push_back(variant.name);
  spec.variant = at == std::string::npos ? variants.front() : head.substr(at + 1);
  if (std::find(variants.begin(), variants.end(), spec.variant) == variants.end())
    throw Error("policy " + policy.name, "has no variant \"" + spec.variant + "\"",
                "it has " + join(variants, ", ", " and "));

  const std::string owner = "policy " + policy.name + "@" + spec.variant;
  std::map<std::string, std::string> values;
  for (const Parameter& parameter : policy.parameters) {
    const auto value = parameter.defaults.find(spec.variant);
    if (value != parameter.defaults.end()) values[parameter.key] = value->second;
  }
  if (colon != std::string_view::npos) {
    for (const std::string& part : split(text.substr(colon + 1), ',')) {
      const auto equals = part.find('=');
      const std::string key = part.substr(0, equals);
      const auto keys = keys_of(policy, spec.variant);
      if (equals == std::string::npos)
        throw Error(owner, "\"" + part + "\" is not key=value",
                    "for example " + policy.name + ":" + (keys.empty() ? "key" : keys.front()) + "=...");
      const Parameter* parameter = find_parameter(policy, key, spec.variant);
      if (parameter == nullptr)
        throw Error(owner, "has no parameter \"" + key + "\"",
                    keys.empty() ? "it takes none" : "it takes " + join(keys, ", ", " and "));
      if (std::find(spec.given.begin(), spec.given.end(), key) != spec.given.end())
        throw Error(owner, "\"" + key + "\" is given twice");
      values[key] = parameter->check(owner, part.substr(equals + 1));
      spec.given.push_back(key);
    }
  }
  spec.values = ParameterValues(std::move(values));
  make_policy(spec);  // parameters that contradict each other are found here, before any file is opened
  return spec;
}

std::unique_ptr<Policy> make_policy(const PolicySpec& spec) { return spec.description->make(spec); }

std::string PolicySpec::text() const {
  std::string out = description->name + "@" + variant;
  char separator = ':';
  for (const Parameter& parameter : description->parameters) {
    if (!values.has(parameter.key)) continue;
    out += separator + parameter.key + "=" + values.text(parameter.key);
    separator = ',';
  }
  return out;
}

std::string PolicySpec::label() const {
  std::string out = description->name;
  if (variant != description->variants.front().name) out += "@" + variant;
  char separator = ':';
  for (const Parameter& parameter : description->parameters) {
    if (!values.has(parameter.key) || values.text(parameter.key) == parameter.defaults.at(variant)) continue;
    out += separator + parameter.key + "=" + values.text(parameter.key);
    separator = ',';
  }
  return out;
}

std::string PolicySpec::parameters_json() const {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const Parameter& parameter : description->parameters) {
    if (!values.has(parameter.key)) continue;
    switch (parameter.type) {
      case ParameterType::integer: json[parameter.key] = values.integer(parameter.key); break;
      case ParameterType::real: json[parameter.key] = values.real(parameter.key); break;
      case ParameterType::boolean: json[parameter.key] = values.boolean(parameter.key); break;
      default: json[parameter.key] = values.text(parameter.key);
    }
  }
  return json.dump();
}

}  // namespace kvreplay
