#include "core/report/policy_label.h"

#include <algorithm>
#include <map>
#include <set>

#include "core/base/text.h"
#include "core/policy/policy.h"

namespace kvreplay {
namespace {

struct Parts {
  std::string name, variant;
  std::vector<std::pair<std::string, std::string>> parameters;
};

Parts parse(const std::string& policy) {
  Parts parts;
  const auto colon = policy.find(':');
  std::string head = policy.substr(0, colon);
  const auto at = head.find('@');
  parts.name = head.substr(0, at);
  if (at != std::string::npos) parts.variant = head.substr(at + 1);
  if (colon == std::string::npos) return parts;
  for (const auto& item : split(policy.substr(colon + 1), ',')) {
    const auto equals = item.find('=');
    parts.parameters.emplace_back(item.substr(0, equals), equals == std::string::npos ? "" : item.substr(equals + 1));
  }
  return parts;
}

}  // namespace

std::vector<std::string> short_policy_labels(const std::vector<std::string>& policies) {
  std::vector<Parts> all;
  std::map<std::string, std::set<std::string>> variants;                        // by name
  std::map<std::string, std::map<std::string, std::set<std::string>>> values;   // by name and key
  std::map<std::string, std::set<std::string>> forms;                           // distinct strings of a name
  std::map<std::string, std::map<std::string, std::set<std::string>>> holders;  // by name and key: the strings with that key
  for (const auto& policy : policies) {
    all.push_back(parse(policy));
    const Parts& parts = all.back();
    variants[parts.name].insert(parts.variant);
    forms[parts.name].insert(policy);
    for (const auto& [key, value] : parts.parameters) {
      values[parts.name][key].insert(value);
      holders[parts.name][key].insert(policy);
    }
  }
  std::vector<std::string> labels;
  for (const auto& parts : all) {
    std::string label = parts.name;
    if (variants[parts.name].size() > 1 && !parts.variant.empty()) label += "@" + parts.variant;
    std::vector<std::string> differing;
    for (const auto& [key, value] : parts.parameters) {
      const bool everywhere = holders[parts.name][key].size() == forms[parts.name].size();
      // Keys that only one variant has are told by the variant.
      const bool tells = values[parts.name][key].size() > 1 || (!everywhere && variants[parts.name].size() == 1);
      if (tells) differing.push_back(key + "=" + value);
    }
    if (!differing.empty()) label += ":" + join(differing, ",");
    labels.push_back(label);
  }
  // Where shortening made two different policies look alike, they are written out.
  std::map<std::string, std::set<std::string>> owners;
  for (std::size_t i = 0; i < labels.size(); ++i) owners[labels[i]].insert(policies[i]);
  for (std::size_t i = 0; i < labels.size(); ++i)
    if (owners[labels[i]].size() > 1) labels[i] = policies[i];
  return labels;
}

bool is_hindsight_bound(const std::string& preset) {
  const auto& all = policy_registry();
  return std::any_of(all.begin(), all.end(),
                     [&](const PolicyDescription* policy) { return policy->name == preset && policy->hindsight; });
}

}  // namespace kvreplay
