#include "core/policy/stages/cam.h"
#include "core/policy/stages/host_tensors.h"
#include "core/policy/stages/per_step.h"

namespace kvreplay {
namespace {

// The state of one layer's cache: one set of slots, oldest first, and what each KV head knows about them.
struct IntervalCache {
  RetainedSet set;
  std::vector<std::vector<double>> received;  // [Hk][slots]: attention since the prompt ended, mean over the group
  std::vector<Tensor<double, 2>> value;       // [Hk][T, d], as merged so far

  void append(std::int64_t position) {
    set.positions.push_back(static_cast<std::int32_t>(position));
    for (auto& sums : received) sums.push_back(0);
  }
  void keep(const std::vector<std::size_t>& slots) {
    for (std::size_t k = 0; k < slots.size(); ++k) {
      set.positions[k] = set.positions[slots[k]];
      for (auto& sums : received) sums[k] = sums[slots[k]];
    }
    set.positions.resize(slots.size());
    for (auto& sums : received) sums.resize(slots.size());
  }
};

class CamIntervalPolicy final : public Policy {
 public:
  explicit CamIntervalPolicy(CamIntervalSettings settings) : settings_(settings) {}
  Granularity granularity() const override { return Granularity::layer; }
  std::int64_t minimum_budget() const override { return std::max(1, settings_.key_norms ? 1 : settings_.sinks); }
  bool evicts_while_decoding() const override { return true; }
  bool changes_rows() const override { return true; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = layer.nothing_evicted(Granularity::layer);
    const std::int64_t heads = layer.model().num_kv_heads, tokens = layer.tokens(), d = layer.model().head_dim;
    if (budget >= layer.candidates() + layer.loaded().steps()) return result;
    result.changes.heads = heads;
    result.changes.dim = d;
    const Tensor<float, 3>& recorded = layer.host(LayerDataset::value);
    const std::vector<double> norms = settings_.key_norms ? key_norms(layer) : std::vector<double>{};
    IntervalCache cache;
    cache.received.resize(static_cast<std::size_t>(heads));
    for (std::int64_t h = 0; h < heads; ++h) {
      cache.value.emplace_back(Tensor<double, 2>::Shape{tokens, d});
      std::copy_n(&recorded(h, 0, 0), tokens * d, cache.value.back().data());
    }
    for (std::int64_t position = layer.first_candidate(); position < layer.prompt(); ++position) cache.append(position);
    int since = 0;  // steps since the last eviction
    for (std::int64_t step = 1; step <= layer.loaded().steps(); ++step) {
      const std::int64_t position = layer.prompt() + step - 1;
      forget_invisible(layer, position, cache);
      cache.append(position);
      for (std::int64_t h = 0; h < heads; ++h) {
        const auto attention = group_attention(layer, h, heads, Reduction::mean, cache.set, step);
        auto& sums = cache.received[static_cast<std::size_t>(h)];
        for (std::size_t slot = 0; slot < sums.size(); ++slot) sums[slot] += attention[slot];
      }
      if (++since < settings_.interval || static_cast<std::int64_t>(cache.set.positions.size()) <= budget) continue;
      shrink(layer, cache, scores(cache, norms, budget), budget, step, since, result);
      since = 0;
    }
    return result;
  }

 private:
  // Σ over KV heads of the norm of each key, by position.
  static std::vector<double> key_norms(LayerWorkspace& layer) {
    const Tensor<float, 3>& key = layer.host(LayerDataset::key);
    std::vector<double> norms(static_cast<std::size_t>(layer.tokens()));
    for (std::int64_t h = 0; h < key.dim(0); ++h)
      for (std::int64_t t = 0; t < key.dim(1); ++t) norms[static_cast<std::size_t>(t)] += length_of(key.view()[h][t].flat());
    return norms;
  }

  static void forget_invisible(const LayerWorkspace& layer, std::int64_t position, IntervalCache& cache) {
    const auto low = layer.loaded().first_visible(position);
    std::vector<std::size_t> slots;
    for (std::size_t slot = 0; slot < cache.set.positions.size(); ++slot)
      if (cache.set.positions[slot] >= low) slots.push_back(slot);
    if (slots.size() < cache.set.positions.size()) cache.keep(slots);
  }

  std::vector<double> scores(const IntervalCache& cache, const std::vector<double>& norms, std::int64_t budget) const {
    const std::size_t size = cache.set.positions.size(), sinks = static_cast<std::size_t>(settings_.sinks);
    std::vector<double> score(size);
    for (std::size_t slot = 0; slot < size; ++slot) {
      const bool pruned = slot >= sinks && slot < sinks + size - static_cast<std::size_t>(budget);
      score[slot] = settings_.key_norms ? -norms[static_cast<std::size_t>(cache.set.positions[slot])] : (pruned ? 0 : 1);
    }
    return score;
  }

  void shrink(LayerWorkspace& layer, IntervalCache& cache, const std::vector<double>& score, std::int64_t budget,
              std::int64_t step, int since, LayerEvictions& result) const {
    const std::vector<std::size_t> kept = top_slots(score, score.size(), static_cast<std::size_t>(budget));
    std::vector<bool> stays(score.size());
    for (const std::size_t slot : kept) stays[slot] = true;
    std::vector<std::size_t> leaving;
    for (std::size_t slot = 0; slot < score.size(); ++slot) {
      if (stays[slot]) continue;
      leaving.push_back(slot);
      result.evicted_at(0, cache.set.positions[slot]) = static_cast<std::int32_t>(step);
    }
    // Of those that leave, as many as steps went by are merged: the best, ties to the later position.
    std::sort(leaving.begin(), leaving.end(),
              [&](std::size_t a, std::size_t b) { return score[a] != score[b] ? score[a] > score[b] : a > b; });
    leaving.resize(std::min(leaving.size(), static_cast<std::size_t>(since)));
    std::sort(leaving.begin(), leaving.end());
    for (std::size_t h = 0; h < cache.value.size(); ++h) merge(layer, cache, h, leaving, kept, step, result.changes);
    cache.keep(kept);
  }

  void merge(const LayerWorkspace& layer, IntervalCache& cache, std::size_t head, const std::vector<std::size_t>& leaving,
             const std::vector<std::size_t>& kept, std::int64_t step, CacheChanges& changes) const {
    const auto& received = cache.received[head];
    auto& value = cache.value[head];
    std::vector<bool> changed(kept.size());
    for (const std::size_t slot : leaving) {
      const auto first = std::upper_bound(kept.begin(), kept.end(), slot);
      const auto last = first + std::min<std::ptrdiff_t>(settings_.neighbours, kept.end() - first);
      if (first == last) continue;
      const auto count = static_cast<double>(last - first);
      double sum = 0;
      for (auto it = first; it != last; ++it) sum += received[*it];
      const std::int32_t from = cache.set.positions[slot];
      const double share = settings_.draw(MergeDraw::probability(received[slot], sum / count), layer.layer(),
                                          static_cast<std::int64_t>(head), from) /
                           count;
      if (share == 0) continue;
      for (auto it = first; it != last; ++it) {
        changed[static_cast<std::size_t>(it - kept.begin())] = true;
        const std::int32_t to = cache.set.positions[*it];
        for (std::int64_t i = 0; i < value.dim(1); ++i) value(to, i) += share * value(from, i);
      }
    }
    for (std::size_t k = 0; k < kept.size(); ++k) {
      if (!changed[k]) continue;
      const std::int32_t position = cache.set.positions[kept[k]];
      changes.rows.push_back(
          {static_cast<std::int32_t>(step), static_cast<std::int32_t>(head), position, -1,
           changes.store(std::span<const double>(&value(position, 0), static_cast<std::size_t>(value.dim(1))))});
    }
  }

  CamIntervalSettings settings_;
};

}  // namespace

std::unique_ptr<Policy> make_cam_interval_policy(CamIntervalSettings settings) {
  return std::make_unique<CamIntervalPolicy>(settings);
}

}  // namespace kvreplay
