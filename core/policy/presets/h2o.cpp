// Heavy hitters: tokens that received the most attention so far, and the recent ones (Zhang et al., NeurIPS 2023).
#include <algorithm>

#include "core/base/error.h"
#include "core/policy/stages/per_step.h"
#include "core/policy/stages/stages.h"
#include "core/policy/timeline.h"

namespace kvreplay {
namespace {

// True eviction after the prompt and after every decode step. The accumulators see only what is retained; a token that is
// dropped takes its accumulator with it.
class PerStepH2O final : public Policy {
 public:
  // heavy = recent = 0: recent is half of the budget, rounded down, heavy the rest.
  PerStepH2O(int heavy, int recent, Grouping grouping) : heavy_(heavy), recent_(recent), grouping_(grouping) {}
  bool evicts_while_decoding() const override { return true; }
  Granularity granularity() const override { return grouping_.granularity; }
  std::int64_t fixed_budget() const override { return heavy_ + recent_; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = layer.nothing_evicted(grouping_.granularity);
    if (budget >= layer.candidates() + layer.loaded().steps()) return result;
    const auto recent = static_cast<std::size_t>(heavy_ + recent_ > 0 ? recent_ : budget / 2);
    const auto heavy = static_cast<std::size_t>(budget) - recent;
    const Array grouped = grouping_.apply(layer, causal_column_sums(layer));
    const std::vector<float> accumulated = layer.backend().download(grouped);
    const std::int64_t heads = grouped.dim(0), n = layer.candidates();
    for (std::int64_t h = 0; h < heads; ++h) {
      std::vector<double> score(static_cast<std::size_t>(layer.tokens()), 0.0);  // by position
      std::copy_n(accumulated.begin() + h * n, n, score.begin() + layer.first_candidate());
      const auto row = replay_timeline(layer, [&](const Moment& moment) {
        const RetainedSet cache{moment.cached};
        if (moment.step > 0) {
          const auto received = group_attention(layer, h, heads, grouping_.reduction, cache, moment.step);
          for (std::size_t slot = 0; slot < received.size(); ++slot)
            score[static_cast<std::size_t>(moment.cached[slot])] += received[slot];
        }
        return heavy_and_recent(cache, score, heavy, recent);
      });
      std::copy(row.begin(), row.end(), &result.evicted_at(h, 0));
    }
    return result;
  }

 private:
  static std::vector<std::int32_t> heavy_and_recent(const RetainedSet& cache, const std::vector<double>& score,
                                                    std::size_t heavy, std::size_t recent) {
    const std::size_t size = cache.positions.size();
    if (size <= heavy + recent) return cache.positions;
    std::vector<double> older;
    for (std::size_t slot = 0; slot < size - recent; ++slot)
      older.push_back(score[static_cast<std::size_t>(cache.positions[slot])]);
    std::vector<std::int32_t> kept = cache.at(top_slots(older, older.size(), heavy));
    kept.insert(kept.end(), cache.positions.end() - static_cast<std::ptrdiff_t>(recent), cache.positions.end());
    return kept;
  }

  int heavy_, recent_;
  Grouping grouping_;
};

Parameter size_parameter(const char* key, const char* doc) {
  return integer_parameter(key, doc, 0, 16777216, {{"original", "0"}, {"original_mask", "0"}});
}

}  // namespace

const PolicyDescription& h2o_policy() {
  static const PolicyDescription description = {
      .name = "h2o",
      .idea = "Keeps the tokens that have received the most attention so far, and the recent ones.",
      .paper =
          "Zhang et al., H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models, NeurIPS 2023",
      .stages =
          "attention (all prompt queries, then each decode query) → sum → top-k + recent; each decode step (paper, "
          "original), "
          "once when the prompt ends (released, factory)",
      .needs = "attention_column_sum, or the queries of the whole prompt (released: the queries); the decode queries",
      .variants =
          {{"paper", "Zhang et al. 2023",
            "Causal sums, mean over the query heads of a KV head; recent = M / 2 rounded down, heavy = the rest; "
            "evicts after the "
            "prompt and after every step, accumulating attention over what is retained."},
           {"released", "an-yongqi/rest-kv at a8bb112",
            "Once, per query head, and not causal: queries before the last W see every key, also later ones; the "
            "last W tokens are kept."},
           {"factory", "Zefan-Cai/KVCache-Factory at c97f9d7", "Once, causal sums; the last W tokens are kept."},
           {"original", "FMInference/H2O at ac75c2a (utils_real_drop)",
            "As paper, per query head, with heavy + recent written in the string; they win over the budget."},
           {"original_mask", "FMInference/H2O at ac75c2a (utils_hh)",
            "The masking form, per query head: nothing is freed, the next query sees the last `recent` tokens, itself "
            "included, and `heavy` of those before. The token in between is in neither part and is blind for one "
            "step; it keeps what it has received, may come back the step after, and then counts as never "
            "evicted: a token is marked evicted at the last time that it turned invisible and stayed so. "
            "What is hidden longer loses what it has received. Its driver sets heavy and recent to 0.1 of the prompt "
            "each; recent=0 hides nothing."}},
      .parameters = {window_parameter({{"released", "32"}, {"factory", "8"}}),
                     size_parameter("heavy", "heavy hitters kept; 0 with recent=0: by the budget"),
                     size_parameter("recent", "recent tokens kept"),
                     granularity_parameter({{"paper", "kv_head"},
                                            {"released", "query_head"},
                                            {"factory", "query_head"},
                                            {"original", "query_head"},
                                            {"original_mask", "query_head"}}),
                     group_parameter({{"paper", "mean"},
                                      {"released", "mean"},
                                      {"factory", "mean"},
                                      {"original", "mean"},
                                      {"original_mask", "mean"}})},
      .make = [](const PolicySpec& spec) -> std::unique_ptr<Policy> {
        const Grouping grouping = grouping_of(spec.values);
        if (spec.variant == "paper" || spec.variant == "original") {
          const bool sizes = spec.variant == "original";
          return std::make_unique<PerStepH2O>(sizes ? spec.values.integer("heavy") : 0,
                                              sizes ? spec.values.integer("recent") : 0, grouping);
        }
        if (spec.variant == "original_mask")
          return make_masked_h2o_policy(spec.values.integer("heavy"), spec.values.integer("recent"), grouping);
        OneShotStages stages;
        stages.granularity = grouping.granularity;
        stages.window = spec.values.integer("window");
        stages.indicator = accumulated_attention_indicator(
            spec.variant == "released" ? ColumnMask::full_before_window : ColumnMask::causal, stages.window, grouping);
        return make_one_shot_policy(std::move(stages));
      },
  };
  return description;
}

}  // namespace kvreplay
