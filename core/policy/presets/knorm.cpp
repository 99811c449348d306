// Keys with small norms attract attention: keep them (Devoto et al., EMNLP 2024).
#include <algorithm>
#include <cmath>
#include <set>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/policy/stages/host_tensors.h"
#include "core/policy/stages/per_step.h"
#include "core/policy/stages/scorers.h"
#include "core/policy/timeline.h"

namespace kvreplay {
namespace {

// After the prompt and after every step: once the cache holds prune_after tokens, ceil(keep_ratio · length) stay.
class PruningPolicy final : public Policy {
 public:
  PruningPolicy(double keep_ratio, int prune_after) : keep_ratio_(keep_ratio), prune_after_(prune_after) {}
  bool evicts_while_decoding() const override { return true; }
  Granularity granularity() const override { return Granularity::kv_head; }
  std::int64_t fixed_budget() const override { return static_cast<std::int64_t>(std::ceil(keep_ratio_ * prune_after_)); }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t) const override {
    LayerEvictions result = layer.nothing_evicted(Granularity::kv_head);
    const Tensor<float, 3>& keys = layer.host(LayerDataset::key);
    for (std::int64_t h = 0; h < result.evicted_at.dim(0); ++h) {
      const auto row = replay_timeline(layer, [&](const Moment& moment) {
        const std::size_t size = moment.cached.size();
        if (size < static_cast<std::size_t>(prune_after_)) return moment.cached;
        std::vector<double> score;
        for (const auto position : moment.cached) score.push_back(-length_of(keys.view()[h][position].flat()));
        const auto kept = static_cast<std::size_t>(std::ceil(keep_ratio_ * static_cast<double>(size)));
        return RetainedSet{moment.cached}.at(top_slots(score, size, kept));
      });
      std::copy(row.begin(), row.end(), &result.evicted_at(h, 0));
    }
    return result;
  }

 private:
  double keep_ratio_;
  int prune_after_;
};

std::set<int> layers_of(const PolicySpec& spec) {
  std::set<int> layers;
  const std::string& text = spec.values.text("skip_layers");
  if (text == "none") return layers;
  for (const std::string& part : split(text, ';')) {
    if (part.empty() || part.size() > 4 || part.find_first_not_of("0123456789") != std::string::npos)
      throw Error("policy knorm@" + spec.variant, "\"" + text + "\" is not allowed for \"skip_layers\"",
                  "it takes none, or layers with ; between (0;1)");
    layers.insert(std::stoi(part));
  }
  return layers;
}

}  // namespace

std::unique_ptr<Indicator> knorm_scorer(const PolicySpec&) {
  return key_norm_indicator({Granularity::kv_head, Reduction::mean});
}

const PolicyDescription& knorm_policy() {
  static const PolicyDescription description = {
      .name = "knorm",
      .idea = "Keeps the tokens whose keys are shortest: small keys attract attention. Nothing is protected.",
      .paper = "Devoto et al., A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression, EMNLP 2024",
      .stages =
          "key_norm → top-k; once when the prompt ends (paper, released, kvpress), after every forward pass (original)",
      .needs = "keys only",
      .variants = {{"paper", "Devoto et al. 2024", "Once, per KV head, every layer."},
                   {"released", "an-yongqi/rest-kv at a8bb112",
                    "Formally per query head, though the heads of a group share their keys. Layers 0 and 1 keep everything, "
                    "whatever the budget, "
                    "unless skip_layers=none."},
                   {"original", "alessiodevoto/l2compress at f93d6ca",
                    "Whenever the cache holds prune_after tokens, ceil(keep_ratio · length) of them stay; these win over "
                    "the budget."},
                   {"kvpress", "NVIDIA/kvpress at 8bb29b9", "As paper."}},
      .parameters = {text_parameter("skip_layers", "layers that evict nothing: none, or numbers with ; between",
                                    {{"paper", "none"}, {"released", "0;1"}}),
                     real_parameter("keep_ratio", "share of the cache that stays when it is pruned", 1e-6, 1,
                                    {{"original", "0.9"}}),
                     integer_parameter("prune_after", "tokens in the cache from which on it is pruned", 1, 16777216,
                                       {{"original", "2048"}})},
      .make = [](const PolicySpec& spec) -> std::unique_ptr<Policy> {
        if (spec.variant == "original")
          return std::make_unique<PruningPolicy>(spec.values.real("keep_ratio"), spec.values.integer("prune_after"));
        if (spec.variant == "kvpress") return make_scorer_policy(knorm_scorer(spec));
        OneShotStages stages;
        stages.granularity = spec.variant == "released" ? Granularity::query_head : Granularity::kv_head;
        stages.indicator = key_norm_indicator({stages.granularity, Reduction::mean});
        stages.skip_layers = layers_of(spec);
        return make_one_shot_policy(std::move(stages));
      },
  };
  return description;
}

}  // namespace kvreplay
