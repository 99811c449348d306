#include "core/policy/timeline.h"

#include <algorithm>

#include "core/policy/stages/per_step.h"

namespace kvreplay {

std::vector<std::int32_t> replay_timeline(const LayerWorkspace& layer,
                                          const std::function<std::vector<std::int32_t>(const Moment&)>& keep) {
  std::vector<std::int32_t> evicted_at(static_cast<std::size_t>(layer.tokens()), -1);
  Moment moment;
  moment.cached = RetainedSet::range(layer.first_candidate(), layer.prompt()).positions;
  for (; moment.step <= layer.loaded().steps(); ++moment.step) {
    if (moment.step > 0) {
      const std::int64_t position = layer.prompt() + moment.step - 1;
      const auto low = layer.loaded().first_visible(position);
      moment.cached.erase(moment.cached.begin(), std::lower_bound(moment.cached.begin(), moment.cached.end(), low));
      moment.cached.push_back(static_cast<std::int32_t>(position));
    }
    const std::vector<std::int32_t> kept = keep(moment);
    if (kept.size() == moment.cached.size()) continue;
    for (const auto position : moment.cached)
      if (!std::binary_search(kept.begin(), kept.end(), position))
        evicted_at[static_cast<std::size_t>(position)] = static_cast<std::int32_t>(moment.step);
    moment.cached = kept;
  }
  return evicted_at;
}

std::int64_t held_after(const LayerWorkspace& layer, const std::int32_t* evicted_at, std::int64_t step) {
  const std::int64_t end = layer.prompt() + step;
  const std::int64_t begin =
      step == 0 ? layer.first_candidate() : std::max(layer.first_candidate(), layer.loaded().first_visible(end - 1));
  return std::count_if(evicted_at + begin, evicted_at + end, [&](std::int32_t at) { return holds(at, step); });
}

CacheChanges joined(const std::vector<CacheChanges>& by_head, std::int64_t heads, std::int64_t dim) {
  CacheChanges all{heads, dim, {}, {}};
  for (const CacheChanges& part : by_head) {
    const std::int64_t offset = static_cast<std::int64_t>(all.storage.size()) / dim;
    for (CacheChanges::Row row : part.rows) {
      if (row.key >= 0) row.key += offset;
      if (row.value >= 0) row.value += offset;
      all.rows.push_back(row);
    }
    all.storage.insert(all.storage.end(), part.storage.begin(), part.storage.end());
  }
  std::stable_sort(all.rows.begin(), all.rows.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return all;
}

}  // namespace kvreplay
