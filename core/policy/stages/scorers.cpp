#include "core/policy/stages/scorers.h"

#include <algorithm>
#include <iterator>

namespace kvreplay {

#define KVREPLAY_SCORER(name) const PolicyDescription& name##_policy();
#include "core/policy/stages/scorers.def"
#undef KVREPLAY_SCORER

namespace {

const std::string kvpress = "kvpress";

struct Scorer {
  const PolicyDescription* policy;
  ScorerFactory make;
};

const std::vector<Scorer>& scorers() {
  static const std::vector<Scorer> all = {
#define KVREPLAY_SCORER(name) {&name##_policy(), &name##_scorer},
#include "core/policy/stages/scorers.def"
#undef KVREPLAY_SCORER
  };
  return all;
}

std::vector<Parameter> parameters_of(const Scorer& scorer) {
  std::vector<Parameter> parameters;
  for (Parameter parameter : scorer.policy->parameters) {
    const auto value = parameter.defaults.find(kvpress);
    if (value == parameter.defaults.end()) continue;
    parameter.defaults = {*value};
    parameters.push_back(std::move(parameter));
  }
  return parameters;
}

bool has_key(const std::vector<Parameter>& parameters, const std::string& key, const std::string& variant) {
  return std::any_of(parameters.begin(), parameters.end(),
                     [&](const Parameter& p) { return p.key == key && p.defaults.count(variant) != 0; });
}

// Whether two scorers mean the same by a key, so that one line can describe it.
bool same(const Parameter& a, Parameter b, const std::string& key) {
  b.only_with[key] = a.only_with.at(key);
  return a.key == b.key && a.only_with == b.only_with && a.type == b.type && a.doc == b.doc && a.minimum == b.minimum &&
         a.maximum == b.maximum && a.choices == b.choices && a.defaults == b.defaults;
}

}  // namespace

std::vector<std::string> scorer_names() {
  std::vector<std::string> names;
  for (const Scorer& scorer : scorers()) names.push_back(scorer.policy->name);
  return names;
}

std::vector<Parameter> with_scorer_parameters(std::vector<Parameter> own, const std::string& key) {
  std::vector<Parameter> parameters = scorer_parameters(own, key, kvpress);
  own.push_back(choice_parameter(key, "what scores the tokens, as its kvpress variant does", scorer_names(),
                                 {{kvpress, scorer_names().front()}}));
  std::move(parameters.begin(), parameters.end(), std::back_inserter(own));
  return own;
}

std::vector<Parameter> scorer_parameters(const std::vector<Parameter>& own, const std::string& key,
                                         const std::string& variant) {
  std::vector<Parameter> all;
  for (const Scorer& scorer : scorers()) {
    for (Parameter& parameter : parameters_of(scorer)) {
      if (has_key(own, parameter.key, variant)) continue;
      parameter.defaults = {{variant, parameter.defaults.at(kvpress)}};
      parameter.only_with[key] = {scorer.policy->name};
      const auto twin = std::find_if(all.begin(), all.end(), [&](const Parameter& p) { return same(p, parameter, key); });
      if (twin == all.end()) {
        all.push_back(std::move(parameter));
      } else {
        twin->only_with[key].push_back(scorer.policy->name);
      }
    }
  }
  return all;
}

std::unique_ptr<Indicator> scorer_of(const PolicySpec& spec, const std::string& key, const std::set<std::string>& shared) {
  const auto scorer = std::find_if(scorers().begin(), scorers().end(),
                                   [&](const Scorer& s) { return s.policy->name == spec.values.text(key); });
  std::map<std::string, std::string> values;
  for (const Parameter& parameter : parameters_of(*scorer)) {
    const auto& known = spec.description->parameters;
    const bool own = !std::any_of(known.begin(), known.end(),
                                  [&](const Parameter& p) { return p.key == parameter.key && p.only_with.count(key) != 0; });
    const bool from_spec = spec.values.has(parameter.key) && (!own || shared.count(parameter.key) != 0);
    values[parameter.key] = from_spec ? spec.values.text(parameter.key) : parameter.defaults.at(kvpress);
  }
  PolicySpec inner = spec;
  inner.values = ParameterValues(std::move(values));
  return scorer->make(inner);
}

Parameter first_stage_parameter() {
  return real_parameter("first_stage", "share of the budget that goes to the best scores before values are looked at", 0, 1,
                        {{kvpress, "0.5"}});
}

Parameter epsilon_parameter() {
  return real_parameter("epsilon", "added to every score before it is multiplied by the size of the projected value", 0, 1e6,
                        {{kvpress, "1e-04"}});
}

Parameter safeguard_parameter() {
  return real_parameter("safeguard", "share of the budget that every head is sure of", 0, 1, {{kvpress, "0.2"}});
}

std::unique_ptr<Policy> make_scorer_policy(std::unique_ptr<Indicator> scorer) {
  OneShotStages stages;
  stages.indicator = std::move(scorer);
  return make_one_shot_policy(std::move(stages));
}

}  // namespace kvreplay
