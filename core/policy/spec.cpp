#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/policy/policy.h"
#include "core/policy/wrappers/wrapper.h"

namespace kvreplay {
namespace {

std::vector<std::string> keys_of(const PolicyDescription& policy, const std::string& variant) {
  std::vector<std::string> keys;
  for (const Parameter& parameter : policy.parameters)
    if (parameter.defaults.count(variant) != 0 && std::find(keys.begin(), keys.end(), parameter.key) == keys.end())
      keys.push_back(parameter.key);
  return keys;
}

bool has_own(const PolicyDescription& policy, const std::string& key, const std::string& variant) {
  const auto keys = keys_of(policy, variant);
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

// Parameters of the wrappers, but for keys that the policy has itself.
std::vector<const Parameter*> wrapper_parameters(const PolicySpec& spec) {
  std::vector<const Parameter*> list;
  for (const PolicyWrapper* wrapper : wrapper_registry())
    for (const Parameter& parameter : wrapper->parameters)
      if (!has_own(*spec.description, parameter.key, spec.variant)) list.push_back(&parameter);
  return list;
}

// The parameters to write out: all of the policy's own, the wrappers' where they are not what they are by default.
template <class Use>
void for_each_written(const PolicySpec& spec, const Use& use) {
  for (const Parameter& parameter : spec.description->parameters)
    if (parameter.applies(spec.variant, spec.values.all())) use(parameter, parameter.defaults.at(spec.variant));
  for (const Parameter* parameter : wrapper_parameters(spec)) {
    const std::string& unset = parameter->defaults.at(wrapper_default);
    if (spec.values.text(parameter->key) != unset) use(*parameter, unset);
  }
}

// What was written after the colon, by key.
std::map<std::string, std::string> parse_given(std::string_view text, const std::string& owner, const PolicySpec& spec) {
  std::map<std::string, std::string> given;
  const auto keys = keys_of(*spec.description, spec.variant);
  std::vector<std::string> everywhere;
  for (const Parameter* parameter : wrapper_parameters(spec)) everywhere.push_back(parameter->key);
  for (const std::string& part : split(text, ',')) {
    const auto equals = part.find('=');
    const std::string key = part.substr(0, equals);
    if (equals == std::string::npos)
      throw Error(owner, "\"" + part + "\" is not key=value",
                  "for example " + spec.description->name + ":" + (keys.empty() ? "key" : keys.front()) + "=...");
    if (std::find(keys.begin(), keys.end(), key) == keys.end() &&
        std::find(everywhere.begin(), everywhere.end(), key) == everywhere.end())
      throw Error(owner, "has no parameter \"" + key + "\"",
                  (keys.empty() ? "it takes none of its own" : "it takes " + join(keys, ", ", " and ")) +
                      "; every policy takes " + join(everywhere, ", ", " and "));
    if (!given.emplace(key, part.substr(equals + 1)).second) throw Error(owner, "\"" + key + "\" is given twice");
  }
  return given;
}

// Throws Error for a key whose condition does not hold.
void refuse_inapplicable(const std::string& key, const std::string& owner, const PolicySpec& spec) {
  std::vector<std::string> conditions;
  for (const Parameter& parameter : spec.description->parameters)
    if (parameter.key == key && parameter.defaults.count(spec.variant) != 0) conditions.push_back(parameter.condition());
  throw Error(owner, "\"" + key + "\" means nothing here", "it goes with " + join(conditions, "; or with "));
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
  std::map<std::string, std::string> given, values;
  if (colon != std::string_view::npos) given = parse_given(text.substr(colon + 1), owner, spec);
  for (const Parameter& parameter : policy.parameters) {
    if (!parameter.applies(spec.variant, values)) continue;
    const auto written = given.find(parameter.key);
    values[parameter.key] =
        written == given.end() ? parameter.defaults.at(spec.variant) : parameter.check(owner, written->second);
    if (written != given.end()) spec.given.push_back(parameter.key);
  }
  for (const Parameter* parameter : wrapper_parameters(spec)) {
    const auto written = given.find(parameter->key);
    values[parameter->key] =
        written == given.end() ? parameter->defaults.at(wrapper_default) : parameter->check(owner, written->second);
    if (written != given.end()) spec.given.push_back(parameter->key);
  }
  for (const auto& [key, value] : given)
    if (values.count(key) == 0) refuse_inapplicable(key, owner, spec);
  for (const Parameter& parameter : policy.parameters)
    if (parameter.required && values.count(parameter.key) != 0 && values[parameter.key].empty())
      throw Error(owner, "needs \"" + parameter.key + "\"", parameter.key + "=...: " + parameter.doc);
  spec.values = ParameterValues(std::move(values));
  make_policy(spec);  // parameters that contradict each other are found here, before any file is opened
  return spec;
}

std::unique_ptr<Policy> make_policy(const PolicySpec& spec) {
  std::unique_ptr<Policy> policy = spec.description->make(spec);
  const std::string owner = "policy " + spec.description->name + "@" + spec.variant;
  for (const PolicyWrapper* wrapper : wrapper_registry())
    if (!has_own(*spec.description, wrapper->name, spec.variant) && wrapper->is_active(spec.values))
      policy = wrapper->wrap(spec, std::move(policy), owner);
  return policy;
}

std::string PolicySpec::text() const {
  std::string out = description->name + "@" + variant;
  char separator = ':';
  for_each_written(*this, [&](const Parameter& parameter, const std::string&) {
    out += separator + parameter.key + "=" + values.text(parameter.key);
    separator = ',';
  });
  return out;
}

std::string PolicySpec::label() const {
  std::string out = description->name;
  if (variant != description->variants.front().name) out += "@" + variant;
  char separator = ':';
  for_each_written(*this, [&](const Parameter& parameter, const std::string& unset) {
    if (values.text(parameter.key) == unset) return;
    out += separator + parameter.key + "=" + values.text(parameter.key);
    separator = ',';
  });
  return out;
}

std::string PolicySpec::parameters_json() const {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for_each_written(*this, [&](const Parameter& parameter, const std::string&) {
    switch (parameter.type) {
      case ParameterType::integer: json[parameter.key] = values.integer(parameter.key); break;
      case ParameterType::real: json[parameter.key] = values.real(parameter.key); break;
      case ParameterType::boolean: json[parameter.key] = values.boolean(parameter.key); break;
      default: json[parameter.key] = values.text(parameter.key);
    }
  });
  return json.dump();
}

}  // namespace kvreplay
