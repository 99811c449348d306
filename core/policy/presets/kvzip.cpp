// What the model looks at when it is asked to repeat the context (Kim et al. 2025).
#include <algorithm>
#include <map>
#include <numeric>

#include "core/policy/stages/kvpress.h"
#include "core/policy/stages/repeat_pass.h"

namespace kvreplay {
namespace {

// The scores of all layers of a trace: KVzip ranks tokens of all layers against each other.
struct RepeatScores {
  RepeatPass pass;
  std::vector<int> layers;
  std::vector<Tensor<float, 2>> scores;  // [Hk, P], as `layers`

  const Tensor<float, 2>& of(int layer) const {
    const auto found = std::lower_bound(layers.begin(), layers.end(), layer);
    return scores[static_cast<std::size_t>(found - layers.begin())];
  }
};

const RepeatScores& all_scores(LayerWorkspace& layer) {
  using Shared = std::shared_ptr<const RepeatScores>;
  return *layer.shared_across_layers<Shared>("repeat scores", [&] {
    RepeatScores all;
    all.pass = read_repeat_pass(layer.trace());
    all.layers = layer.trace().layers();
    for (const int each : all.layers) all.scores.push_back(repeat_scores(layer.trace(), all.pass, each));
    return std::make_shared<const RepeatScores>(std::move(all));
  });
}

// A score and where it stands, head after head: the lower of two equal ones goes first.
using Ranked = std::pair<float, std::int64_t>;

class KvzipPolicy : public Policy {
 public:
  bool acts_on_whole_prompts_only() const override { return true; }  // the second pass reads all of it
  Granularity granularity() const override { return Granularity::kv_head; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = layer.nothing_evicted(Granularity::kv_head);
    if (budget >= layer.candidates()) return result;
    const RepeatScores& all = all_scores(layer);
    mark(layer, all, budget, result.evicted_at);
    if (layer.wants_scores()) result.scores = all.of(layer.layer());
    return result;
  }

 protected:
  virtual void mark(LayerWorkspace& layer, const RepeatScores& all, std::int64_t budget,
                    Tensor<std::int32_t, 2>& evicted_at) const = 0;
};

// The share r of all pairs goes that have the lowest scores: of all layers together, or of each by itself.
class LowestPolicy final : public KvzipPolicy {
 public:
  explicit LowestPolicy(bool layerwise) : layerwise_(layerwise) {}

 protected:
  void mark(LayerWorkspace& layer, const RepeatScores& all, std::int64_t budget,
            Tensor<std::int32_t, 2>& evicted_at) const override {
    std::vector<Ranked> order = ranked(layer.trace(), all, layer.layer());
    const std::int64_t count = layerwise_
                                   ? truncated(kvpress_ratio(layer.candidates(), budget) * static_cast<double>(order.size()))
                                   : evicted_of_layer(layer, all, budget);
    std::nth_element(order.begin(), order.begin() + count, order.end());
    for (auto it = order.begin(); it != order.begin() + count; ++it)
      evicted_at(it->second / layer.prompt(), it->second % layer.prompt()) = 0;
  }

 private:
  static std::vector<Ranked> ranked(const Trace& trace, const RepeatScores& all, int layer) {
    const Tensor<float, 2>& scores = all.of(layer);
    std::vector<Ranked> order;
    for (std::int64_t h = 0; h < scores.dim(0); ++h)
      for (std::int64_t t = first_candidate(trace, layer); t < scores.dim(1); ++t)
        order.emplace_back(scores(h, t), h * scores.dim(1) + t);
    return order;
  }

  // How many of the lowest scores of all layers are this layer's.
  static std::int64_t evicted_of_layer(LayerWorkspace& layer, const RepeatScores& all, std::int64_t budget) {
    const auto& counts =
        layer.shared_across_layers<std::map<int, std::int64_t>>("kvzip counts:" + std::to_string(budget), [&] {
          std::vector<std::pair<Ranked, int>> order;
          std::map<std::int64_t, std::int64_t> pairs;  // by how many candidates their layer has
          for (const int each : all.layers) {
            const std::int64_t candidates = layer.trace().prompt_length() - first_candidate(layer.trace(), each);
            if (budget >= candidates) continue;
            const auto of_layer = ranked(layer.trace(), all, each);
            pairs[candidates] += std::ssize(of_layer);
            for (const Ranked& entry : of_layer) order.push_back({{entry.first, std::ssize(order)}, each});
          }
          std::int64_t count = 0;
          for (const auto& [candidates, size] : pairs)
            count += truncated(static_cast<double>(size) * kvpress_ratio(candidates, budget));
          std::nth_element(order.begin(), order.begin() + count, order.end());
          std::map<int, std::int64_t> evicted;
          for (auto it = order.begin(); it != order.begin() + count; ++it) ++evicted[it->second];
          return evicted;
        });
    const auto found = counts.find(layer.layer());
    return found == counts.end() ? 0 : found->second;
  }

  bool layerwise_;
};

// The authors' code: what comes before the context stays; of the context what scores above a threshold of all layers.
class ThresholdPolicy final : public KvzipPolicy {
 protected:
  void mark(LayerWorkspace& layer, const RepeatScores& all, std::int64_t budget,
            Tensor<std::int32_t, 2>& evicted_at) const override {
    const float threshold = layer.shared_across_layers<float>("kvzip threshold:" + std::to_string(budget), [&] {
      return threshold_of(all, static_cast<double>(budget - all.pass.context_begin));
    });
    const Tensor<float, 2>& scores = all.of(layer.layer());
    for (std::int64_t h = 0; h < scores.dim(0); ++h)
      for (std::int64_t t = std::max(all.pass.context_begin, layer.first_candidate()); t < all.pass.context_end; ++t)
        if (!(scores(h, t) > threshold)) evicted_at(h, t) = 0;
  }

 private:
  // The int(N · keep)-th largest of the N scores of the context; only what is above it stays.
  static float threshold_of(const RepeatScores& all, double kept_tokens) {
    std::vector<float> sorted;
    for (const Tensor<float, 2>& layer : all.scores)
      for (std::int64_t h = 0; h < layer.dim(0); ++h)
        sorted.insert(sorted.end(), &layer(h, 0) + all.pass.context_begin, &layer(h, 0) + all.pass.context_end);
    const double keep = std::max(0.0, kept_tokens / static_cast<double>(all.pass.context_end - all.pass.context_begin));
    const std::int64_t index =
        std::clamp<std::int64_t>(truncated(static_cast<double>(sorted.size()) * keep) - 1, 0, std::ssize(sorted) - 1);
    std::nth_element(sorted.begin(), sorted.begin() + index, sorted.end(), std::greater<>());
    return sorted[static_cast<std::size_t>(index)];
  }
};

}  // namespace

const PolicyDescription& kvzip_policy() {
  static const PolicyDescription description = {
      .name = "kvzip",
      .idea = "Keeps what the model looks at when it is asked to repeat the context, whatever will be asked about it later.",
      .paper = "Kim et al., KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction, NeurIPS 2025",
      .stages =
          "attention (queries of a second pass that repeats the context) → max over its queries and the group → lowest "
          "of all layers and heads go; once when the prompt ends",
      .needs = "keys and a repeat pass (kvreplay capture --repeat-pass)",
      .variants =
          {{"kvpress", "NVIDIA/kvpress at 8bb29b9",
            "The lowest of all layers and heads go, or of each layer (layerwise). The first 4 tokens stay; the rest of "
            "what comes before the context is never scored and goes first."},
           {"original", "snu-mllab/KVzip at 5d84729",
            "What comes before the context stays and counts in the budget; of the context what scores strictly above "
            "a threshold, about one pair less than the budget."}},
      .parameters = {boolean_parameter("layerwise", "the same number in every layer", {{"kvpress", "false"}})},
      .make = [](const PolicySpec& spec) -> std::unique_ptr<Policy> {
        if (spec.variant == "original") return std::make_unique<ThresholdPolicy>();
        return std::make_unique<LowestPolicy>(spec.values.boolean("layerwise"));
      },
  };
  return description;
}

}  // namespace kvreplay
