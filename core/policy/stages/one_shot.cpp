#include <algorithm>
#include <functional>
#include <limits>

#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

class OneShotPolicy final : public Policy {
 public:
  explicit OneShotPolicy(OneShotStages stages) : stages_(std::move(stages)) {}

  Granularity granularity() const override { return stages_.granularity; }
  std::int64_t minimum_budget() const override { return std::max(1, stages_.window + stages_.sinks); }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    if (evicts_nothing(layer, budget)) return layer.nothing_evicted(stages_.granularity);
    const std::int64_t sinks = sinks_in(layer);
    LayerEvictions result;
    const auto use = [&](const SelectionContext& selection) {
      result.evicted_at = evicted_at_of(kept_sets(layer, stages_.selection->select(selection), sinks),
                                        layer.first_candidate(), layer.prompt(), layer.tokens());
      if (layer.wants_scores()) result.scores = spread(layer, stages_.selection->ranked(selection), sinks);
    };
    select(layer, budget, sinks, use);
    return result;
  }

  std::optional<KeptSets> keep(LayerWorkspace& layer, std::int64_t budget) const override {
    if (evicts_nothing(layer, budget)) return std::nullopt;
    const std::int64_t sinks = sinks_in(layer);
    KeptSets result;
    select(layer, budget, sinks, [&](const SelectionContext& selection) {
      result = kept_sets(layer, stages_.selection->select(selection), sinks);
    });
    return result;
  }

 private:
  bool evicts_nothing(const LayerWorkspace& layer, std::int64_t budget) const {
    return budget >= layer.candidates() || stages_.skip_layers.count(layer.layer()) != 0;
  }
  // Sinks that a sliding window no longer shows take no room.
  std::int64_t sinks_in(const LayerWorkspace& layer) const {
    return std::max<std::int64_t>(0, stages_.sinks - layer.first_candidate());
  }

  // Everything up to the selection, which is what `use` does with the context.
  void select(LayerWorkspace& layer, std::int64_t budget, std::int64_t sinks,
              const std::function<void(const SelectionContext&)>& use) const {
    const std::int64_t columns = layer.candidates() - stages_.window - sinks;
    const Array scores = scores_of_columns(layer, budget, sinks, columns);
    const Array pooled = stages_.pooling->pool({layer, scores, budget});
    const std::int64_t protected_columns = stages_.window + sinks;
    const auto capacity = stages_.allocation->capacity({layer, pooled, budget, static_cast<int>(protected_columns)});
    use({layer, pooled, capacity, budget - protected_columns, sinks});
  }

  // Sinks and window around the selected columns, which count from the first after the sinks.
  KeptSets kept_sets(const LayerWorkspace& layer, const std::vector<std::vector<std::int32_t>>& selected,
                     std::int64_t sinks) const {
    const auto first = static_cast<std::int32_t>(layer.first_candidate()), behind = first + static_cast<std::int32_t>(sinks);
    std::size_t total = selected.size() * static_cast<std::size_t>(sinks + stages_.window);
    for (const auto& columns : selected) total += columns.size();
    KeptSets kept;
    kept.position.resize(total);
    kept.offset.reserve(selected.size() + 1);
    kept.offset.push_back(0);
    std::int32_t* out = kept.position.data();
    const auto append_range = [&](std::int32_t from, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) *out++ = from + static_cast<std::int32_t>(i);
    };
    for (const auto& columns : selected) {
      append_range(first, sinks);
      out = std::transform(columns.begin(), columns.end(), out, [behind](std::int32_t column) { return behind + column; });
      append_range(static_cast<std::int32_t>(layer.prompt()) - stages_.window, stages_.window);
      kept.offset.push_back(out - kept.position.data());
    }
    return kept;
  }

  // The indicator's scores of the columns [first, first + columns).
  Array scores_of_columns(LayerWorkspace& layer, std::int64_t budget, std::int64_t first, std::int64_t columns) const {
    const std::string key = "score:" + stages_.indicator->key(budget) + ":" + std::to_string(first + columns);
    const Array& scores = layer.shared<Array>(
        key, [&] { return layer.backend().prefix(shared_score(*stages_.indicator, layer, budget), first + columns); });
    if (first == 0) return scores;
    const std::vector<float> all = layer.backend().download(scores);
    std::vector<float> part;
    for (std::int64_t h = 0; h < scores.dim(0); ++h)
      part.insert(part.end(), all.begin() + h * (first + columns) + first, all.begin() + (h + 1) * (first + columns));
    return layer.backend().upload({scores.dim(0), columns}, part);
  }

  // Scores by position [H, P], NaN where there is none.
  static Tensor<float, 2> spread(LayerWorkspace& layer, const Array& scores, std::int64_t first) {
    const std::vector<float> values = layer.backend().download(scores);
    const std::int64_t heads = scores.dim(0), columns = scores.dim(1);
    Tensor<float, 2> out({heads, layer.prompt()}, std::numeric_limits<float>::quiet_NaN());
    for (std::int64_t h = 0; h < heads; ++h)
      std::copy_n(values.begin() + h * columns, columns, out.data() + h * layer.prompt() + layer.first_candidate() + first);
    return out;
  }

  OneShotStages stages_;
};

}  // namespace

const Array& shared_score(const Indicator& indicator, LayerWorkspace& layer, std::int64_t budget) {
  return layer.shared<Array>("indicator:" + indicator.key(budget), [&] { return indicator.score(layer, budget); });
}

std::unique_ptr<Policy> make_one_shot_policy(OneShotStages stages) {
  return std::make_unique<OneShotPolicy>(std::move(stages));
}

}  // namespace kvreplay
