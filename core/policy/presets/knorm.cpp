// Keys with small norms attract attention: keep them (Devoto et al., EMNLP 2024).
#include <algorithm>
#include <cmath>
#include <set>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/policy/stages/per_step.h"
#include "core/policy/stages/scorers.h"

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
    for (std::int64_t h = 0; h < result.evicted_at.dim(0); ++h) {
      const auto key = layer.trace().read(layer.layer(), LayerDataset::key, {h, h + 1});
      RetainedSet cache;
      std::vector<double> score;
      const auto append = [&](std::int64_t position) {
        double squared = 0;
        for (const float x : key.view()[0][position].flat()) squared += static_cast<double>(x) * x;
        cache.positions.push_back(static_cast<std::int32_t>(position));
        score.push_back(-std::sqrt(squared));
      };
      for (std::int64_t position = layer.first_candidate(); position < layer.prompt(); ++position) append(position);
      prune(cache, score, 0, h, result.evicted_at);
      for (std::int64_t step = 1; step <= layer.loaded().steps(); ++step) {
        append(layer.prompt() + step - 1);
        prune(cache, score, step, h, result.evicted_at);
      }
    }
    return result;
  }

 private:
  void prune(RetainedSet& cache, std::vector<double>& score, std::int64_t step, std::int64_t head,
             Tensor<std::int32_t, 2>& evicted_at) const {
    const std::size_t size = cache.positions.size();
    if (size < static_cast<std::size_t>(prune_after_)) return;
    const auto kept = top_slots(score, size, static_cast<std::size_t>(std::ceil(keep_ratio_ * static_cast<double>(size))));
    for (const auto position : cache.positions) evicted_at(head, position) = static_cast<std::int32_t>(step);
    for (std::size_t k = 0; k < kept.size(); ++k) {
      cache.positions[k] = cache.positions[kept[k]];
      score[k] = score[kept[k]];
      evicted_at(head, cache.positions[k]) = -1;
    }
    cache.positions.resize(kept.size());
    score.resize(kept.size());
  }

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
      .parameters = {[] {
                       Parameter p;
                       p.key = "skip_layers";
                       p.type = ParameterType::text;
                       p.doc = "layers that evict nothing: none, or numbers with ; between";
                       p.defaults = {{"paper", "none"}, {"released", "0;1"}};
                       return p;
                     }(),
                     [] {
                       Parameter p;
                       p.key = "keep_ratio";
                       p.type = ParameterType::real;
                       p.doc = "share of the cache that stays when it is pruned";
                       p.minimum = 1e-6;
                       p.maximum = 1;
                       p.defaults = {{"original", "0.9"}};
                       return p;
                     }(),
                     [] {
                       Parameter p;
                       p.key = "prune_after";
                       p.doc = "tokens in the cache from which on it is pruned";
                       p.minimum = 1;
                       p.maximum = 16777216;
                       p.defaults = {{"original", "2048"}};
                       return p;
                     }()},
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
