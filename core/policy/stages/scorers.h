// Scorers as kvpress has them: presses that only give every candidate a score, so that others (adakv, criticalkv, chunkkv)
// can be built on any of them. core/policy/stages/scorers.def lists them.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/policy/stages/stages.h"

namespace kvreplay {

// spec: of a policy that has the scorer's parameters among its values. Scores are [Hk, n].
using ScorerFactory = std::unique_ptr<Indicator> (*)(const PolicySpec& spec);
#define KVREPLAY_SCORER(name) std::unique_ptr<Indicator> name##_scorer(const PolicySpec& spec);
#include "core/policy/stages/scorers.def"
#undef KVREPLAY_SCORER

std::vector<std::string> scorer_names();

// The parameters of a policy that is built on a scorer, which `key` ("base") chooses: `own`, then `key`, then those of
// every scorer, each only with the scorers that have it. A key of `own` hides a scorer's, which then has its default.
std::vector<Parameter> with_scorer_parameters(std::vector<Parameter> own, const std::string& key = "base");
// The last part of those, for a variant of any name.
std::vector<Parameter> scorer_parameters(const std::vector<Parameter>& own, const std::string& key,
                                         const std::string& variant);
// The scorer that the key names, set up by the spec. `shared`: keys of the policy's own whose values the scorer gets.
std::unique_ptr<Indicator> scorer_of(const PolicySpec& spec, const std::string& key = "base",
                                     const std::set<std::string>& shared = {});

Parameter first_stage_parameter();  // CriticalKV's share, 0.5
Parameter epsilon_parameter();      // and what it adds to every score, 0.0001
Parameter safeguard_parameter();    // AdaKV's, 0.2

// The policy that keeps the best of a scorer's scores in every KV head.
std::unique_ptr<Policy> make_scorer_policy(std::unique_ptr<Indicator> scorer);

}  // namespace kvreplay
