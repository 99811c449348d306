#include "core/base/error.h"
#include "core/base/text.h"
#include "core/policy/policy.h"

namespace kvreplay {

#define KVREPLAY_POLICY(name) const PolicyDescription& name##_policy();
#include "core/policy/policies.def"
#undef KVREPLAY_POLICY

const std::vector<const PolicyDescription*>& policy_registry() {
  static const std::vector<const PolicyDescription*> all = {
#define KVREPLAY_POLICY(name) &name##_policy(),
#include "core/policy/policies.def"
#undef KVREPLAY_POLICY
  };
  return all;
}

const PolicyDescription& find_policy(const std::string& name) {
  std::vector<std::string> names;
  for (const auto* description : policy_registry()) {
    if (description->name == name) return *description;
    names.push_back(description->name);
  }
  const std::string guess = closest(name, names);
  throw Error("--policy", "unknown policy \"" + name + "\"",
              guess.empty() ? "there are " + join(names, ", ", " and ") : "did you mean \"" + guess + "\"?");
}

}  // namespace kvreplay
