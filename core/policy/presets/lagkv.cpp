// Tokens that stand out once scaled by the range of those that follow (Liang et al. 2025).
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/policy/stages/host_tensors.h"
#include "core/policy/stages/indicators_without_queries.h"
#include "core/policy/stages/scorers.h"

namespace kvreplay {
namespace {

struct RecursiveSettings {
  std::int64_t sinks = 16, lag = 1024;
  double keep = 0.5, value_weight = 1;  // of each block, int(keep · lag) tokens stay
};

// The authors' form: whenever two blocks of `lag` tokens lie behind what was compressed, all blocks but the last are cut
// to their share, once and for all; while the prompt is read and while decoding.
class RecursiveLagPolicy final : public Policy {
 public:
  explicit RecursiveLagPolicy(RecursiveSettings settings) : settings_(settings) {}
  bool evicts_while_decoding() const override { return true; }
  Granularity granularity() const override { return Granularity::kv_head; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t) const override {
    LayerEvictions result = layer.nothing_evicted(Granularity::kv_head);
    const std::int64_t first = layer.first_candidate();
    const auto rows_of = [&](LayerDataset which, std::int64_t h) {
      return TensorView<const float, 2>(&layer.host(which)(h, first, 0), {layer.tokens() - first, layer.model().head_dim});
    };
    for (std::int64_t h = 0; h < result.evicted_at.dim(0); ++h) {
      const auto keys = rows_of(LayerDataset::key, h), values = rows_of(LayerDataset::value, h);
      // What follows the compressed part is always a run of the text: `next` is where it begins, `base` how many lie before.
      std::int64_t next = settings_.sinks, base = settings_.sinks;
      for (std::int64_t step = 0; step <= layer.loaded().steps(); ++step) {
        const std::int64_t read = layer.candidates() + step;
        for (; read - next >= 2 * settings_.lag; next += settings_.lag, base += kept_of_a_block()) {
          std::int32_t* evicted_at = result.evicted_at.view()[h].data() + layer.first_candidate() + next;
          cut_block(keys, values, next, static_cast<std::int32_t>(step), evicted_at);
        }
        if (step == 0 && base + read - next < layer.candidates())
          layer.remark("ratio keeps " + std::to_string(base + read - next) + " tokens; it wins over the budget");
      }
    }
    return result;
  }

 private:
  std::int64_t kept_of_a_block() const {
    return static_cast<std::int64_t>(settings_.keep * static_cast<double>(settings_.lag));
  }

  void cut_block(TensorView<const float, 2> keys, TensorView<const float, 2> values, std::int64_t begin, std::int32_t step,
                 std::int32_t* evicted_at) const {
    std::vector<double> score(static_cast<std::size_t>(settings_.lag), 0.0);
    add_lag_scores(keys, begin, settings_.lag, 1, score);
    add_lag_scores(values, begin, settings_.lag, settings_.value_weight, score);
    std::vector<std::size_t> order(score.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return std::isnan(score[a]) ? !std::isnan(score[b]) : score[a] > score[b];
    });
    for (std::size_t i = static_cast<std::size_t>(kept_of_a_block()); i < order.size(); ++i) evicted_at[order[i]] = step;
  }

  RecursiveSettings settings_;
};

std::unique_ptr<Policy> recursive_policy(const PolicySpec& spec) {
  RecursiveSettings settings;
  settings.sinks = spec.values.integer("sinks");
  settings.lag = spec.values.integer("lag");
  settings.keep = spec.values.real("ratio");
  settings.value_weight = spec.values.real("value_weight");
  return std::make_unique<RecursiveLagPolicy>(settings);
}

}  // namespace

std::unique_ptr<Indicator> lagkv_scorer(const PolicySpec& spec) {
  LagSettings settings;
  settings.sinks = spec.values.integer("sinks");
  settings.lag = spec.values.integer("lag");
  settings.cross_scoring = spec.values.boolean("cross_scoring");
  return lag_indicator(settings);
}

const PolicyDescription& lagkv_policy() {
  static const PolicyDescription description = {
      .name = "lagkv",
      .idea =
          "Scales keys and values by the range that the next block of tokens has; keeps those that then vary most over "
          "their channels. Needs no query.",
      .paper = "Liang et al., LagKV: Lag-Relative Information of the KV Cache Tells Which Tokens Are Important, 2025",
      .stages =
          "lag (keys and values) → sinks and the newest blocks first → top-k; once when the prompt ends (kvpress), "
          "block by block, also while decoding (original)",
      .needs = "keys and values",
      .variants =
          {{"kvpress", "NVIDIA/kvpress at 8bb29b9",
            "Once. Tokens rank within their block, so that the blocks keep alike and ties decide (the oldest stays); "
            "cross_scoring compares the scores themselves. Prompts shorter than sinks + 2·lag keep sinks and the "
            "newest. A channel that is constant over a block makes scores NaN, which rank first."},
           {"original", "AI-Lab-China-Merchants-Bank/LagKV at 2a9d19e",
            "Each block is cut to int(ratio·lag) tokens as soon as the next one is complete, whatever the budget: "
            "ratio wins over it."}},
      .parameters = {integer_parameter("sinks", "first tokens, which always stay", 0, 65536,
                                       {{"kvpress", "4"}, {"original", "16"}}),
                     integer_parameter("lag", "tokens of a block", 2, 16777216, {{"kvpress", "128"}, {"original", "1024"}}),
                     boolean_parameter("cross_scoring", "compare scores across blocks instead of ranks within them",
                                       {{"kvpress", "false"}}),
                     real_parameter("ratio", "share of each block that stays", 0, 1, {{"original", "0.5"}}),
                     real_parameter("value_weight", "weight of the values' score beside the keys'", 0, 1000000,
                                    {{"original", "1"}})},
      .make = [](const PolicySpec& spec) -> std::unique_ptr<Policy> {
        if (spec.variant == "original") return recursive_policy(spec);
        return make_scorer_policy(lagkv_scorer(spec));
      },
  };
  return description;
}

}  // namespace kvreplay
