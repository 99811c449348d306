// What a run's evictions leave in the cache, added up layer by layer: bytes when the prompt ends and at every step, the
// hash, and signs of a policy that did nothing or too much. Internal to core/replay.
#pragma once

#include <string>
#include <vector>

#include "core/backend/backend.h"
#include "core/base/sha256.h"
#include "core/policy/policy.h"

namespace kvreplay {

class CacheAccount {
 public:
  CacheAccount(const Trace& trace, Granularity granularity);

  // evicted_at [H, T]; layers in the order of Trace::layers().
  void add_layer(const LoadedLayer& layer, TensorView<const std::int32_t, 2> evicted_at);

  std::int64_t cache_bytes() const { return held_at_step_[0] * bytes_of_token_; }  // right after the prompt's eviction
  std::int64_t peak_cache_bytes() const;  // the most at any decode step, generated tokens included
  std::int64_t evicted_tokens() const { return evicted_tokens_; }
  bool head_emptied() const { return head_emptied_; }  // a head kept no prompt token at all
  std::string kept_sha256() { return hash_.hex(); }

 private:
  void add_held(const LoadedLayer& layer, const std::int32_t* row, std::int64_t rows);

  Granularity granularity_;
  std::int64_t bytes_of_token_;
  Sha256 hash_;
  std::int64_t evicted_tokens_ = 0;
  bool head_emptied_ = false;
  std::vector<std::int64_t> held_at_step_;  // stored rows visible at each step, over layers and stored heads
};

// Rows that the cache stores right after the prompt's eviction, over the layer's stored heads.
std::int64_t stored_after_prompt(const LoadedLayer& layer, Granularity granularity,
                                 TensorView<const std::int32_t, 2> evicted_at);

// Bytes of the keys and values of the whole prompt, as far as sliding windows show it.
std::int64_t full_cache_bytes(const Trace& trace);

// The same after a policy that keeps `tokens` in every KV head of every layer.
std::int64_t uniform_cache_bytes(const Trace& trace, std::int64_t tokens);

}  // namespace kvreplay
