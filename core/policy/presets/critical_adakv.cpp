#include "core/policy/stages/kvpress.h"
#include "core/policy/stages/scorers.h"

namespace kvreplay {

const PolicyDescription& critical_adakv_policy() {
  static const PolicyDescription description = {
      .name = "critical_adakv",
      .idea = "AdaKV's budgets for the heads, filled in CriticalKV's two stages.",
      .paper = "Feng et al., Identify Critical KV Cache in LLM Inference from an Output Perturbation Perspective, 2025",
      .stages =
          "base scorer → adaptive over heads with a safeguard → top-k (first stage) → × ‖W_o v‖₁ → top-k; once when the "
          "prompt ends",
      .needs = "what the base needs; output_projection",
      .variants = {{"kvpress", "NVIDIA/kvpress at 8bb29b9",
                    "Per KV head; tokens of the safeguard belong to the first stage, which grows where they are more. The "
                    "heads together keep exactly H · M. Scores in a results file are the base's."}},
      .parameters = with_scorer_parameters({safeguard_parameter(), first_stage_parameter(), epsilon_parameter()}),
      .make =
          [](const PolicySpec& spec) {
            const double safeguard = spec.values.real("safeguard");
            OneShotStages stages;
            stages.indicator = scorer_of(spec);
            stages.allocation = safeguard_allocation(safeguard);
            stages.selection = two_stage_selection(spec.values.real("first_stage"), spec.values.real("epsilon"), safeguard);
            return make_one_shot_policy(std::move(stages));
          },
  };
  return description;
}

}  // namespace kvreplay
