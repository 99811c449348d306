#include "core/policy/stages/kvpress.h"
#include "core/policy/stages/scorers.h"

namespace kvreplay {

const PolicyDescription& criticalkv_policy() {
  static const PolicyDescription description = {
      .name = "criticalkv",
      .idea = "Any scorer, then its scores times the size of each projected value: what is small in the output may go.",
      .paper = "Feng et al., Identify Critical KV Cache in LLM Inference from an Output Perturbation Perspective, 2025",
      .stages = "base scorer → top-k (first stage) → × ‖W_o v‖₁ → top-k; once when the prompt ends",
      .needs = "what the base needs; output_projection",
      .variants = {{"kvpress", "NVIDIA/kvpress at 8bb29b9",
                    "Per KV head, the norm averaged over its query heads. The authors contributed this code; their own "
                    "repository was not read. Scores in a results file are those of the second stage, the first stage being "
                    "the largest float32."}},
      .parameters = with_scorer_parameters({first_stage_parameter(), epsilon_parameter()}),
      .make =
          [](const PolicySpec& spec) {
            return make_scorer_policy(
                critical_indicator(scorer_of(spec), spec.values.real("first_stage"), spec.values.real("epsilon")));
          },
  };
  return description;
}

}  // namespace kvreplay
