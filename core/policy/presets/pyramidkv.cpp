#include "core/policy/stages/kvpress.h"
#include "core/policy/stages/scorers.h"

namespace kvreplay {

const PolicyDescription& pyramidkv_policy() {
  static const PolicyDescription description = {
      .name = "pyramidkv",
      .idea = "SnapKV's scores with budgets that fall from layer to layer: attention narrows with depth.",
      .paper = "Cai et al., PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling, 2024",
      .stages =
          "attention (last W queries) → sum → pooling → top-k + window, pyramid over layers; once when the prompt ends",
      .needs = "the last W prompt queries",
      .variants = {{"paper", "Cai et al. 2024",
                    "Real arithmetic, so that all layers together keep exactly the nominal budget; scores averaged over the "
                    "query heads of a KV head."},
                   {"released", "an-yongqi/rest-kv at a8bb112",
                    "Per query head; integer arithmetic, whose floor makes the sum over layers exceed the nominal budget by "
                    "up to 15 %; every layer "
                    "gets M when the prompt is shorter than 2 (M - W)."},
                   {"kvpress", "NVIDIA/kvpress at 8bb29b9",
                    "As snapkv@kvpress, with real arithmetic and window tokens inside the pyramid, each layer rounded half "
                    "to even, so the sum can miss the nominal budget by a few tokens; every layer gets M when the smallest "
                    "would not hold the window."}},
      .parameters = {window_parameter({{"paper", "32"}, {"released", "32"}, {"kvpress", "64"}}),
                     kernel_parameter({{"paper", "5"}, {"released", "5"}, {"kvpress", "5"}}),
                     pooling_parameter({"avg", "max", "none"}, {{"paper", "avg"}, {"released", "avg"}}),
                     granularity_parameter({{"paper", "kv_head"}, {"released", "query_head"}}),
                     group_parameter({{"paper", "mean"}, {"released", "mean"}}),
                     beta_parameter({{"paper", "20"}, {"released", "20"}, {"kvpress", "20"}})},
      .make =
          [](const PolicySpec& spec) {
            OneShotStages stages;
            if (spec.variant == "kvpress") {
              stages.indicator = snapkv_scorer(spec);
              stages.allocation = kvpress_pyramid_allocation(spec.values.integer("beta"), spec.values.integer("window"));
              return make_one_shot_policy(std::move(stages));
            }
            const Grouping grouping = grouping_of(spec.values);
            stages.granularity = grouping.granularity;
            stages.window = spec.values.integer("window");
            stages.indicator = attention_indicator(stages.window, temporal_weights("sum", 0, stages.window), grouping);
            stages.pooling = pooling_of(spec);
            stages.allocation = pyramid_allocation(spec.values.integer("beta"),
                                                   spec.variant == "paper" ? PyramidForm::exact : PyramidForm::published);
            return make_one_shot_policy(std::move(stages));
          },
  };
  return description;
}

}  // namespace kvreplay
