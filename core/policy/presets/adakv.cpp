#include "core/policy/stages/kvpress.h"
#include "core/policy/stages/scorers.h"

namespace kvreplay {

const PolicyDescription& adakv_policy() {
  static const PolicyDescription description = {
      .name = "adakv",
      .idea = "SnapKV's scores with a budget for each head: heads whose attention is spread out get more.",
      .paper =
          "Feng et al., Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient LLM Inference, "
          "2024",
      .stages =
          "attention (last W queries) → mean → pooling → top-k + window, adaptive over heads; once when the prompt ends",
      .needs = "the last W prompt queries",
      .variants = {{"paper", "Feng et al. 2024",
                    "One set for each KV head, from the group's mean scores, which count as they are; the heads together "
                    "keep exactly H · M."},
                   {"released", "an-yongqi/rest-kv at a8bb112",
                    "Per query head; each head's scores are weighted by the share that its B best hold. Budgets are rounded "
                    "head by head, so "
                    "their sum can miss H · B by a few tokens."},
                   {"kvpress", "NVIDIA/kvpress at 8bb29b9",
                    "On any scorer, per KV head: instead of a blend, every head is sure of its best int(M · safeguard) "
                    "tokens, and the rest goes to the layer's largest scores; the heads together keep exactly H · M."}},
      .parameters = with_scorer_parameters(
          {window_parameter({{"paper", "32"}, {"released", "32"}}), kernel_parameter({{"paper", "7"}, {"released", "5"}}),
           pooling_parameter({"avg", "max", "none"}, {{"paper", "max"}, {"released", "avg"}}),
           real_parameter("floor", "share of the budget that is divided equally among the heads", 0, 1,
                          {{"paper", "0.2"}, {"released", "0.2"}}),
           boolean_parameter("normalize", "weight each head's scores by the share that its B best hold",
                             {{"paper", "false"}, {"released", "true"}}),
           granularity_parameter({{"paper", "kv_head"}, {"released", "query_head"}}),
           group_parameter({{"paper", "mean"}, {"released", "mean"}}), safeguard_parameter()}),
      .make =
          [](const PolicySpec& spec) {
            OneShotStages stages;
            if (spec.variant == "kvpress") {
              stages.indicator = scorer_of(spec);
              stages.allocation = safeguard_allocation(spec.values.real("safeguard"));
              return make_one_shot_policy(std::move(stages));
            }
            const Grouping grouping = grouping_of(spec.values);
            stages.granularity = grouping.granularity;
            stages.window = spec.values.integer("window");
            stages.indicator = attention_indicator(stages.window, temporal_weights("mean", 0, stages.window), grouping);
            stages.pooling = pooling_of(spec);
            stages.allocation =
                adaptive_allocation(spec.values.real("floor"), spec.values.boolean("normalize"), spec.variant == "paper");
            return make_one_shot_policy(std::move(stages));
          },
  };
  return description;
}

}  // namespace kvreplay
