// The history of one stored head's cache: what it holds at each moment at which something may be evicted. Policies that
// evict at every step run along it, and so does whatever looks at what a policy did (wrappers).
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/policy/layer_workspace.h"

namespace kvreplay {

// One moment at which something may be evicted: 0 when the prompt ended, s after decode step s.
struct Moment {
  std::int64_t step = 0;
  std::vector<std::int32_t> cached;  // what this head still holds before the eviction, the newest token included; ascending
};

// Builds a row of evicted_at [T] by asking `keep` after the prompt and after every step which of the cached tokens stay.
// Tokens that the layer's sliding window no longer shows leave the cache without being evicted.
std::vector<std::int32_t> replay_timeline(const LayerWorkspace& layer,
                                          const std::function<std::vector<std::int32_t>(const Moment&)>& keep);

// The changes of single heads as those of the layer, by step.
CacheChanges joined(const std::vector<CacheChanges>& by_head, std::int64_t heads, std::int64_t dim);

// Held after `step` by a policy whose row of evicted_at this is.
inline bool holds(std::int32_t evicted_at, std::int64_t step) { return evicted_at < 0 || evicted_at > step; }

// How many tokens such a row [T] holds after `step`, of those that the layer still shows.
std::int64_t held_after(const LayerWorkspace& layer, const std::int32_t* evicted_at, std::int64_t step);

}  // namespace kvreplay
