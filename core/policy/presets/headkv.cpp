#include "core/policy/stages/stages.h"

namespace kvreplay {

const PolicyDescription& headkv_policy() {
  static const PolicyDescription description = {
      .name = "headkv",
      .idea = "SnapKV's scores with a budget for each head of the model from a table: heads that retrieve get more.",
      .paper =
          "Fu et al., Not All Heads Matter: A Head-Level KV Cache Compression Method with Integrated Retrieval and "
          "Reasoning, ICLR 2025",
      .stages =
          "attention (last W queries) → mean → pooling → top-k + window, by a table of heads; once when the prompt ends",
      .needs = "the last W prompt queries; a JSON file with the importance of every head (`kvreplay heads` makes one)",
      .variants =
          {{"paper", "Fu et al. 2025",
            "One set for each KV head, whose importance is the sum over its query heads. All heads of all layers together "
            "keep "
            "exactly M each on average: the window counts, what a short prompt cannot use goes to the other heads."},
           {"released", "an-yongqi/rest-kv at a8bb112",
            "Per query head, each rounded by itself; the pool is M, not M - W, for the tokens before the window alone, so "
            "heads keep M + W on average. A head never gets more than there is, and what is too much is lost."},
           {"factory", "Zefan-Cai/KVCache-Factory at c97f9d7",
            "As released, window 8, max pooling; granularity=kv_head takes the rounded mean of the group's budgets."},
           {"original", "FYYFU/HeadKV at 0862a09",
            "The pool is M - W; importances are raised to the power `temperature` and normalised again."}},
      .parameters =
          {head_table_parameter({{"paper", ""}, {"released", ""}, {"factory", ""}, {"original", ""}}),
           window_parameter({{"paper", "32"}, {"released", "32"}, {"factory", "8"}, {"original", "32"}}),
           kernel_parameter({{"paper", "7"}, {"released", "5"}, {"factory", "7"}, {"original", "7"}}),
           pooling_parameter({"avg", "max", "none"},
                             {{"paper", "max"}, {"released", "avg"}, {"factory", "max"}, {"original", "max"}}),
           real_parameter("beta", "1/beta of the budget is shared out by importance, the rest equally; more than 1", 1.0001,
                          10000, {{"paper", "1.01"}, {"released", "1.01"}, {"factory", "1.01"}, {"original", "1.01"}}),
           real_parameter("temperature", "exponent of the importances: above 1 gives to few heads, below 1 to many", 0, 100,
                          {{"paper", "1"}, {"original", "1"}}),
           granularity_parameter(
               {{"paper", "kv_head"}, {"released", "query_head"}, {"factory", "query_head"}, {"original", "query_head"}}),
           group_parameter({{"paper", "mean"}, {"released", "mean"}, {"factory", "mean"}, {"original", "mean"}})},
      .make =
          [](const PolicySpec& spec) {
            OneShotStages stages;
            const Grouping grouping = grouping_of(spec.values);
            stages.granularity = grouping.granularity;
            stages.window = spec.values.integer("window");
            stages.indicator = attention_indicator(stages.window, temporal_weights("mean", 0, stages.window), grouping);
            stages.pooling = pooling_of(spec);
            stages.allocation =
                table_allocation({.table = HeadTable::read(spec.values.text("table")),
                                  .beta = spec.values.real("beta"),
                                  .temperature = spec.values.has("temperature") ? spec.values.real("temperature") : 1,
                                  .window_in_base = spec.variant == "released" || spec.variant == "factory",
                                  .exact = spec.variant == "paper"});
            return make_one_shot_policy(std::move(stages));
          },
  };
  return description;
}

}  // namespace kvreplay
