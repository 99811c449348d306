#include <algorithm>
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
    LayerEvictions result = layer.nothing_evicted(stages_.granularity);
    if (budget >= layer.candidates() || stages_.skip_layers.count(layer.layer()) != 0) return result;
    // Sinks that a sliding window no longer shows take no room.
    const std::int64_t sinks = std::max<std::int64_t>(0, stages_.sinks - layer.first_candidate());
    const std::int64_t columns = layer.candidates() - stages_.window - sinks;
    const Array scores = scores_of_columns(layer, budget, sinks, columns);
    const Array pooled = stages_.pooling->pool({layer, scores, budget});
    const std::int64_t protected_columns = stages_.window + sinks;
    const auto capacity = stages_.allocation->capacity({layer, pooled, budget, static_cast<int>(protected_columns)});
    const SelectionContext selection{layer, pooled, capacity, budget - protected_columns, sinks};
    const auto kept = stages_.selection->select(selection);
    for (std::size_t h = 0; h < kept.size(); ++h) {
      std::int32_t* row =
          result.evicted_at.data() + static_cast<std::int64_t>(h) * layer.tokens() + layer.first_candidate() + sinks;
      std::fill_n(row, columns, 0);
      for (const std::int32_t column : kept[h]) row[column] = -1;
    }
    if (layer.wants_scores()) result.scores = spread(layer, stages_.selection->ranked(selection), sinks);
    return result;
  }

 private:
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
