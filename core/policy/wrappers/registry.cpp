#include "core/policy/wrappers/wrapper.h"

namespace kvreplay {

#define KVREPLAY_WRAPPER(name) const PolicyWrapper& name##_wrapper();
#include "core/policy/wrappers.def"
#undef KVREPLAY_WRAPPER

const std::vector<const PolicyWrapper*>& wrapper_registry() {
  static const std::vector<const PolicyWrapper*> all = {
#define KVREPLAY_WRAPPER(name) &name##_wrapper(),
#include "core/policy/wrappers.def"
#undef KVREPLAY_WRAPPER
  };
  return all;
}

const Parameter* find_wrapper_parameter(const std::string& key) {
  for (const PolicyWrapper* wrapper : wrapper_registry())
    for (const Parameter& parameter : wrapper->parameters)
      if (parameter.key == key) return &parameter;
  return nullptr;
}

bool PolicyWrapper::is_active(const ParameterValues& values) const {
  const Parameter& first = parameters.front();
  return values.text(first.key) != first.defaults.at(wrapper_default);
}

}  // namespace kvreplay
