#include "core/report/policy_label.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/policy/policy.h"

namespace kvreplay {

std::string policy_label(const std::string& policy) {
  try {
    return parse_policy(policy).label();
  } catch (const Error&) {
    return policy;
  }
}

namespace {

bool any_policy(const std::string& preset, bool PolicyDescription::*flag) {
  const auto& all = policy_registry();
  return std::any_of(all.begin(), all.end(),
                     [&](const PolicyDescription* policy) { return policy->name == preset && policy->*flag; });
}

}  // namespace

bool is_hindsight_bound(const std::string& preset) { return any_policy(preset, &PolicyDescription::hindsight); }
bool keeps_everything(const std::string& preset) { return any_policy(preset, &PolicyDescription::keeps_everything); }

bool changes_rows(const RunInfo& info) {
  if (info.position_mode != "original") return true;
  try {
    return make_policy(parse_policy(info.policy))->changes_rows();
  } catch (const Error&) {
    return false;  // of a policy that this program does not know
  }
}

std::string run_variation(const RunInfo& info) {
  return info.scope + (info.scope.empty() || info.edit.empty() ? "" : "; ") + info.edit;
}

}  // namespace kvreplay
