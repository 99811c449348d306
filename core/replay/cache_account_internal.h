// What a run's evictions leave in the cache, added up layer by layer: bytes when the prompt ends and at every step, the
// hash, and signs of a policy that did nothing or too much. Internal to core/replay.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/backend/backend.h"
#include "core/base/sha256.h"
#include "core/policy/policy.h"

namespace kvreplay {

// One run's evictions in one layer, stored head by stored head as evicted_at has them, whichever form they are in.
class EvictedRows {
 public:
  EvictedRows(const LoadedLayer& layer, const RunEvictions& run);
  // [T]; valid until the next call.
  std::span<const std::int32_t> row(std::int64_t head);

 private:
  const RunEvictions& run_;
  std::int64_t first_candidate_;
  std::vector<std::int32_t> scratch_;  // of kept sets: everything evicted but the head that was asked for last
  std::int64_t shown_ = -1;
};

class CacheAccount {
 public:
  // hashes: which hash is wanted. That of evicted_at costs time in proportion to the tokens of the trace.
  enum class Hash : std::uint8_t { evicted_at, kept_prompt };
  CacheAccount(const Trace& trace, Granularity granularity, Hash hash);

  // Layers in the order of Trace::layers().
  void add_layer(const LoadedLayer& layer, const RunEvictions& run);

  std::int64_t cache_bytes() const { return held_at_step_[0] * bytes_of_token_; }  // right after the prompt's eviction
  std::int64_t peak_cache_bytes() const;  // the most at any decode step, generated tokens included
  std::int64_t evicted_tokens() const { return evicted_tokens_; }
  bool head_emptied() const { return head_emptied_; }  // a head kept no prompt token at all
  std::string sha256() { return hash_.hex(); }

 private:
  void add_row(const LoadedLayer& layer, std::span<const std::int32_t> row, std::int64_t rows);
  void add_kept(const LoadedLayer& layer, std::span<const std::int32_t> kept, std::int64_t rows);
  void add_held(const LoadedLayer& layer, std::int64_t rows);
  void hash_kept(std::span<const std::int32_t> kept);

  Granularity granularity_;
  Hash which_;
  std::int64_t bytes_of_token_;
  Sha256 hash_;
  std::int64_t evicted_tokens_ = 0;
  bool head_emptied_ = false;
  std::vector<std::int64_t> held_at_step_;  // stored rows visible at each step, over layers and stored heads
  std::vector<std::int64_t> change_;        // of one head's held tokens, by step
  std::vector<std::int32_t> kept_;          // of one head given as evicted_at
};

// Rows that the cache stores right after the prompt's eviction, over the layer's stored heads.
std::int64_t stored_after_prompt(const LoadedLayer& layer, Granularity granularity, const RunEvictions& run);

// Bytes of the keys and values of the whole prompt, as far as sliding windows show it.
std::int64_t full_cache_bytes(const Trace& trace);

// The same after a policy that keeps `tokens` in every KV head of every layer.
std::int64_t uniform_cache_bytes(const Trace& trace, std::int64_t tokens);

}  // namespace kvreplay
