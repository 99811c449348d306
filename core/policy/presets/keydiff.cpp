// Keys that point elsewhere than the others carry what the others do not (Park et al. 2025).
#include "core/policy/stages/indicators_without_queries.h"
#include "core/policy/stages/scorers.h"

namespace kvreplay {

std::unique_ptr<Indicator> keydiff_scorer(const PolicySpec&) { return key_difference_indicator(); }

const PolicyDescription& keydiff_policy() {
  static const PolicyDescription description = {
      .name = "keydiff",
      .idea =
          "Keeps the tokens whose keys differ most in direction from the mean key. Needs no query; nothing is protected.",
      .paper =
          "Park et al., KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM Inference in "
          "Resource-Constrained Environments, 2025",
      .stages = "key_difference → top-k; block by block while the prompt is read (paper), once when it ends (kvpress)",
      .needs = "keys only",
      .variants =
          {{"paper", "Park et al. 2025, as NVIDIA/kvpress at 8bb29b9 composes it (BlockPress)",
            "The prompt is read `chunk` tokens at a time: after each, the budget's best stay, by the mean of the keys "
            "that are there."},
           {"kvpress", "NVIDIA/kvpress at 8bb29b9", "Once, by the mean over all keys of the prompt."}},
      .parameters = {integer_parameter("chunk", "tokens read before the cache is cut back to the budget", 1, 16777216,
                                       {{"paper", "128"}})},
      .make =
          [](const PolicySpec& spec) {
            if (spec.variant == "kvpress") return make_scorer_policy(keydiff_scorer(spec));
            OneShotStages stages;
            stages.indicator = key_difference_indicator();
            stages.selection = streamed_key_difference(spec.values.integer("chunk"));
            return make_one_shot_policy(std::move(stages));
          },
  };
  return description;
}

}  // namespace kvreplay
