#include "core/policy/stages/kvpress.h"
#include "core/policy/stages/scorers.h"

namespace kvreplay {

std::unique_ptr<Indicator> snapkv_scorer(const PolicySpec& spec) {
  const int window = spec.values.integer("window"), kernel = odd_kernel_of(spec);
  auto attention = attention_indicator(window, temporal_weights("mean", 0, window), {Granularity::kv_head, Reduction::mean});
  return forced_window_indicator(std::move(attention), average_pooling(kernel), window, "avg" + std::to_string(kernel));
}

const PolicyDescription& snapkv_policy() {
  static const PolicyDescription description = {
      .name = "snapkv",
      .idea = "Keeps what the end of the prompt attends to, pooled so that neighbours stay together.",
      .paper = "Li et al., SnapKV: LLM Knows What You are Looking for Before Generation, NeurIPS 2024",
      .stages = "attention (last W queries) → sum → pooling → top-k + window; once when the prompt ends",
      .needs = "the last W prompt queries",
      .variants = {{"paper", "Li et al. 2024, its LongBench settings",
                    "Window 32, kernel 7, max pooling; scores are averaged over the query heads of a KV head before "
                    "pooling, so that a real "
                    "cache can hold the result."},
                   {"released", "an-yongqi/rest-kv at a8bb112",
                    "Kernel 5, average pooling with zero padding; one set per query head."},
                   {"factory", "Zefan-Cai/KVCache-Factory at c97f9d7",
                    "Window 8; average pooling unless pooling=max is given, as its benchmark runner does; per query head, "
                    "or granularity=kv_head."},
                   {"kvpress", "NVIDIA/kvpress at 8bb29b9",
                    "Window 64, kernel 5, average pooling with zero padding; the mean over a KV head's query heads comes "
                    "last. The window gets the largest score + 1 instead of being taken out, so a budget below it keeps its "
                    "oldest tokens."}},
      .parameters = {window_parameter({{"paper", "32"}, {"released", "32"}, {"factory", "8"}, {"kvpress", "64"}}),
                     kernel_parameter({{"paper", "7"}, {"released", "5"}, {"factory", "7"}, {"kvpress", "5"}}),
                     pooling_parameter({"avg", "max", "none"}, {{"paper", "max"}, {"released", "avg"}, {"factory", "avg"}}),
                     granularity_parameter({{"paper", "kv_head"}, {"released", "query_head"}, {"factory", "query_head"}}),
                     group_parameter({{"paper", "mean"}, {"released", "mean"}, {"factory", "mean"}}),
                     allocation_parameter({{"paper", "uniform"}, {"released", "uniform"}, {"factory", "uniform"}}),
                     beta_parameter({{"paper", "20"}, {"released", "20"}, {"factory", "20"}})},
      .make =
          [](const PolicySpec& spec) {
            if (spec.variant == "kvpress") return make_scorer_policy(snapkv_scorer(spec));
            OneShotStages stages;
            const Grouping grouping = grouping_of(spec.values);
            stages.granularity = grouping.granularity;
            stages.window = spec.values.integer("window");
            stages.indicator = attention_indicator(stages.window, temporal_weights("sum", 0, stages.window), grouping);
            stages.pooling = pooling_of(spec);
            stages.allocation = allocation_of(spec, spec.variant == "paper" ? PyramidForm::exact : PyramidForm::published);
            return make_one_shot_policy(std::move(stages));
          },
  };
  return description;
}

}  // namespace kvreplay
