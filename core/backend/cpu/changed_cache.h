// One query head's view of a cache in which rows were changed (CacheChanges): which keys and values hold at a step.
#pragma once

#include <vector>

#include "core/backend/cpu/cpu_backend.h"

namespace kvreplay {

class ChangedCache {
 public:
  ChangedCache(const CpuLayer& layer, const CacheChanges& changes, int query_head);

  // Applies what was changed before decode step `step` (1 for the first). Steps go upwards.
  void advance(std::int64_t step);

  // Logits of the kept positions for `query` [d]: those of `logits` [T] but where the key has changed.
  void kept_logits(const float* query, const float* logits, const std::vector<std::int32_t>& kept,
                   std::vector<double>& out) const;
  const float* value(std::int32_t position) const;  // [d]

 private:
  const CpuLayer& layer_;
  const CacheChanges& changes_;
  std::int64_t head_;  // stored head
  const float* recorded_value_;
  std::size_t next_ = 0;
  std::vector<std::int64_t> key_row_, value_row_;  // [T] rows of the storage; -1: as recorded
};

}  // namespace kvreplay
