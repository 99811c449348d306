#include "core/policy/stages/cam.h"
#include "core/policy/stages/per_step.h"

namespace kvreplay {
namespace {

class CamStreamingPolicy final : public Policy {
 public:
  explicit CamStreamingPolicy(CamStreamingSettings settings) : settings_(settings) {}
  Granularity granularity() const override { return settings_.grouping.granularity; }
  std::int64_t minimum_budget() const override { return settings_.sinks + 2; }
  std::int64_t fixed_budget() const override { return settings_.recent > 0 ? settings_.sinks + settings_.recent : 0; }
  bool evicts_while_decoding() const override { return true; }
  bool changes_rows() const override { return true; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = layer.nothing_evicted(granularity());
    if (budget >= layer.candidates() + layer.loaded().steps()) return result;
    CacheChanges& changes = result.changes;
    changes.heads = stored_heads(granularity(), layer.model());
    changes.dim = layer.model().head_dim;
    const std::int64_t sets = result.evicted_at.dim(0), kv_heads = layer.model().num_kv_heads;
    const std::int64_t recent = settings_.recent > 0 ? settings_.recent : budget - room_of_sinks(layer);
    for (std::int64_t set = 0; set < sets; ++set)
      // As published the query to come is one of the recent tokens: after step s the oldest of them is P + s + 1 - recent.
      for (std::int64_t position = first_recent(layer); position < layer.tokens(); ++position) {
        const std::int64_t step =
            std::max<std::int64_t>(0, position + recent + (settings_.published ? 0 : 1) - layer.prompt());
        if (step <= layer.loaded().steps()) result.evicted_at(set, position) = static_cast<std::int32_t>(step);
      }
    for (std::int64_t h = 0; h < changes.heads; ++h)
      merge(layer, h, h * kv_heads / changes.heads, sets == 1 ? 0 : h, recent, result);
    std::stable_sort(changes.rows.begin(), changes.rows.end(),
                     [](const CacheChanges::Row& a, const CacheChanges::Row& b) { return a.step < b.step; });
    return result;
  }

 private:
  // In a layer with a sliding window the sinks may be out of sight: then they take no room.
  std::int64_t room_of_sinks(const LayerWorkspace& layer) const {
    return std::max<std::int64_t>(0, settings_.sinks - layer.first_candidate());
  }
  std::int64_t first_recent(const LayerWorkspace& layer) const {
    return std::max(layer.first_candidate(), static_cast<std::int64_t>(settings_.sinks));
  }

  // What the query at `position` sees.
  RetainedSet seen(const LayerWorkspace& layer, std::int64_t set, std::int64_t position,
                   const Tensor<std::int32_t, 2>& evicted_at) const {
    const auto step = static_cast<std::int32_t>(position - layer.prompt() + 1);
    RetainedSet cache;
    for (std::int64_t t = layer.loaded().first_visible(position); t <= position; ++t)
      if (t == position || evicted_at(set, t) == -1 || evicted_at(set, t) >= step)
        cache.positions.push_back(static_cast<std::int32_t>(t));
    return cache;
  }

  void merge(LayerWorkspace& layer, std::int64_t head, std::int64_t kv_head, std::int64_t set, std::int64_t recent,
             LayerEvictions& result) const {
    const std::int64_t d = layer.model().head_dim, kv_heads = result.changes.heads;
    const Tensor<float, 3>& recorded = layer.host(LayerDataset::value);
    Tensor<double, 2> value({layer.tokens(), d});
    std::copy_n(&recorded(kv_head, 0, 0), layer.tokens() * d, value.data());
    for (std::int64_t step = 1; step <= layer.loaded().steps(); ++step) {
      const std::int64_t position = layer.prompt() + step - 1;
      // As published: the oldest that the next query still sees. Else what leaves after this step.
      const std::int64_t leaving = position - recent + (settings_.published ? 2 : 0);
      const RetainedSet cache = seen(layer, set, position, result.evicted_at);
      const auto at = std::lower_bound(cache.positions.begin(), cache.positions.end(), leaving);
      if (leaving < first_recent(layer) || at == cache.positions.end() || *at != leaving) continue;
      const auto attention = group_attention(layer, head, kv_heads, settings_.grouping.reduction, cache, step);
      const auto slot = static_cast<std::size_t>(at - cache.positions.begin());
      double sum = 0;
      for (std::size_t later = slot + 1; later < attention.size(); ++later) sum += attention[later];
      const double mean = sum / static_cast<double>(attention.size() - slot - 1);
      const double share =
          settings_.draw(MergeDraw::probability(attention[slot], mean), layer.layer(), head, leaving) / settings_.neighbours;
      if (share == 0) continue;
      for (std::int64_t t = leaving + 1; t <= std::min(position, leaving + settings_.neighbours); ++t) {
        for (std::int64_t i = 0; i < d; ++i) value(t, i) += share * value(leaving, i);
        result.changes.rows.push_back(
            {static_cast<std::int32_t>(step), static_cast<std::int32_t>(head), static_cast<std::int32_t>(t), -1,
             result.changes.store(std::span<const double>(&value(t, 0), static_cast<std::size_t>(d)))});
      }
    }
  }

  CamStreamingSettings settings_;
};

}  // namespace

std::unique_ptr<Policy> make_cam_streaming_policy(CamStreamingSettings settings) {
  return std::make_unique<CamStreamingPolicy>(settings);
}

}  // namespace kvreplay
