// Where the kept keys stand after an eviction: where they were in the text, or closed up.
#include <algorithm>

#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/policy/stages/stages.h"
#include "core/policy/timeline.h"
#include "core/policy/wrappers/wrapper.h"
#include "core/trace/rope.h"

namespace kvreplay {
namespace {

// Keys are turned to slot positions relative to the query: the recorded query of position t stays as it is, and the key in
// slot r of n is turned forwards from its position p to t - (n - r). Only keys whose distance to the query changes by the
// eviction are turned again.
class CompactedPolicy final : public WrappedPolicy {
 public:
  using WrappedPolicy::WrappedPolicy;
  bool changes_rows() const override { return true; }
  bool compacts_positions() const override { return true; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = inner().evict(layer, budget);
    const ModelInfo& model = layer.model();
    const std::int64_t heads = stored_heads(granularity(), model);
    const Rope rope = Rope::of(layer.trace());
    layer.host(LayerDataset::key);  // read before the threads start
    std::vector<CacheChanges> by_head(static_cast<std::size_t>(heads));
    parallel_for(heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t h = begin; h < end; ++h)
        by_head[static_cast<std::size_t>(h)] = turn_head(layer, rope, result, heads, h);
    });
    result.changes = joined(by_head, heads, model.head_dim);
    return result;
  }

 private:
  static CacheChanges turn_head(LayerWorkspace& layer, const Rope& rope, const LayerEvictions& evictions, std::int64_t heads,
                                std::int64_t head) {
    const std::int64_t d = layer.model().head_dim, kv_head = head * layer.model().num_kv_heads / heads;
    const std::int32_t* row = &evictions.evicted_at(evictions.evicted_at.dim(0) == 1 ? 0 : head, 0);
    CacheChanges changes{heads, d, {}, {}};
    std::vector<std::int64_t> turned(static_cast<std::size_t>(layer.tokens()), 0);
    // What another wrapper, or the policy, changed before is what is turned now.
    std::vector<const float*> key(static_cast<std::size_t>(layer.tokens()));
    for (std::int64_t i = 0; i < layer.tokens(); ++i)
      key[static_cast<std::size_t>(i)] = &layer.host(LayerDataset::key)(kv_head, i, 0);
    auto earlier = evictions.changes.rows.begin();
    std::vector<double> vector(static_cast<std::size_t>(d));
    replay_timeline(layer, [&](const Moment& moment) {
      for (; earlier != evictions.changes.rows.end() && earlier->step <= moment.step; ++earlier) {
        if (earlier->head != head) continue;
        CacheChanges::Row copy = *earlier;
        const auto at = [&](std::int64_t stored) {
          return std::span<const float>(evictions.changes.storage.data() + stored * d, static_cast<std::size_t>(d));
        };
        if (copy.key >= 0) {
          key[static_cast<std::size_t>(copy.position)] = at(copy.key).data();
          turned[static_cast<std::size_t>(copy.position)] = -1;  // to be written again
          copy.key = -1;
        }
        if (copy.value >= 0) {
          copy.value = changes.store(at(copy.value));
          changes.rows.push_back(copy);
        }
      }
      std::vector<std::int32_t> kept;
      for (const auto position : moment.cached)
        if (row[position] != moment.step) kept.push_back(position);
      const std::int64_t next_query = layer.prompt() + moment.step, count = static_cast<std::int64_t>(kept.size());
      for (std::int64_t slot = 0; slot < count; ++slot) {
        const auto position = static_cast<std::size_t>(kept[static_cast<std::size_t>(slot)]);
        const std::int64_t by = next_query - (count - slot) - static_cast<std::int64_t>(position);
        if (by == turned[position]) continue;
        turned[position] = by;
        std::copy_n(key[position], d, vector.begin());
        rope.relative(by).apply(vector);
        changes.rows.push_back({static_cast<std::int32_t>(moment.step), static_cast<std::int32_t>(head),
                                static_cast<std::int32_t>(position), changes.store(std::span<const double>(vector)), -1});
      }
      return kept;
    });
    return changes;
  }
};

}  // namespace

const PolicyWrapper& positions_wrapper() {
  static const PolicyWrapper wrapper = {
      .name = "positions",
      .idea =
          "compacted closes the gaps: kept keys are turned (RoPE) to the slots that they have in the cache, and a query "
          "stands "
          "right behind the newest of them, as StreamingLLM and LaCache do. What was recorded stays in every other respect.",
      .parameters = {choice_parameter("positions", "positions of kept keys: those of the text, or slots of the cache",
                                      {"original", "compacted"}, {{wrapper_default, "original"}})},
      .constraints = {},
      .wrap = [](const PolicySpec&, std::unique_ptr<Policy> inner,
                 const std::string&) { return std::make_unique<CompactedPolicy>(std::move(inner)); },
  };
  return wrapper;
}

}  // namespace kvreplay
