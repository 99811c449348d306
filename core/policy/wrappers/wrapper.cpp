#include "core/policy/wrappers/wrapper.h"

#include "core/base/error.h"
#include "core/policy/layer_workspace.h"

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

LayerEvictions WrappedPolicy::evict_with_scores(LayerWorkspace& layer, std::int64_t budget) const {
  struct Restore {
    LayerWorkspace& layer;
    bool wanted;
    ~Restore() { layer.set_wants_scores(wanted); }
  } const restore{layer, layer.wants_scores()};
  layer.set_wants_scores(true);
  return inner_->evict(layer, budget);
}

bool PolicyWrapper::is_active(const ParameterValues& values) const {
  const Parameter& first = parameters.front();
  return values.text(first.key) != first.defaults.at(wrapper_default);
}

namespace {

PolicySpec with_value(PolicySpec spec, const std::string& key, const std::string& value) {
  auto values = spec.values.all();
  values[key] = value;
  spec.values = ParameterValues(std::move(values));
  return spec;
}

}  // namespace

std::vector<PolicySpec> constrained_forms(const PolicySpec& spec) {
  std::vector<PolicySpec> forms;
  for (const PolicyWrapper* wrapper : wrapper_registry()) {
    if (wrapper->is_active(spec.values)) continue;
    for (const std::string& value : wrapper->constraints) {
      PolicySpec form = with_value(spec, wrapper->name, value);
      try {
        make_policy(form);
        forms.push_back(std::move(form));
      } catch (const Error&) {  // it cannot be put around this one
      }
    }
  }
  return forms;
}

PolicySpec unconstrained_form(const PolicySpec& spec) {
  PolicySpec plain = spec;
  for (const PolicyWrapper* wrapper : wrapper_registry())
    if (!wrapper->constraints.empty())
      plain = with_value(plain, wrapper->name, wrapper->parameters.front().defaults.at(wrapper_default));
  return plain;
}

}  // namespace kvreplay
