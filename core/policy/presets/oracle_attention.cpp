#include "core/policy/stages/stages.h"

namespace kvreplay {

const PolicyDescription& oracle_attention_policy() {
  static const PolicyDescription description = {
      .name = "oracle_attention",
      .idea =
          "Hindsight: keeps the prompt tokens that the generated tokens will attend to most. No policy can be expected to "
          "reach it.",
      .paper = "",
      .stages = "oracle attention (all decode queries) → sum → top-k; once when the prompt ends, nothing protected",
      .needs = "the decode queries, at least one generated token",
      .variants = {{"paper", "a bound of this project", ""}},
      .parameters = {granularity_parameter({{"paper", "kv_head"}}), group_parameter({{"paper", "sum"}})},
      .make =
          [](const PolicySpec& spec) {
            OneShotStages stages;
            const Grouping grouping = grouping_of(spec.values);
            stages.granularity = grouping.granularity;
            stages.indicator = oracle_attention_indicator(grouping);
            return make_one_shot_policy(std::move(stages));
          },
      .hindsight = true,
  };
  return description;
}

}  // namespace kvreplay
