#include <algorithm>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/policy/policy.h"

namespace kvreplay {

#define KVREPLAY_POLICY(name) const PolicyDescription& name##_policy();
#include "core/policy/policies.def"
#undef KVREPLAY_POLICY

namespace {

std::vector<const PolicyDescription*>& registered() {
  static std::vector<const PolicyDescription*> all = {
#define KVREPLAY_POLICY(name) &name##_policy(),
#include "core/policy/policies.def"
#undef KVREPLAY_POLICY
  };
  return all;
}

}  // namespace

const std::vector<const PolicyDescription*>& policy_registry() { return registered(); }

void register_policy(const PolicyDescription& description) {
  const std::string& name = description.name;
  const auto allowed = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; };
  if (name.empty() || !std::all_of(name.begin(), name.end(), allowed))
    throw Error("register_policy", "\"" + printable(name) + "\" is no name for a policy",
                "use lower-case letters, digits and underscores");
  const std::string where = "policy " + name;
  for (const auto* other : registered())
    if (other->name == name) throw Error(where, "is the name of a policy already", "choose another");
  if (description.variants.empty()) throw Error(where, "has no variant", "give it one, \"paper\" by custom");
  if (!description.make) throw Error(where, "has no function \"make\"", "it gives the policy's object");
  registered().push_back(&description);
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
