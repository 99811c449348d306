#include "core/backend/cpu/changed_cache.h"

#include <cmath>

namespace kvreplay {

ChangedCache::ChangedCache(const CpuLayer& layer, const CacheChanges& changes, int query_head)
    : layer_(layer),
      changes_(changes),
      head_(changes.heads == layer.num_query_heads ? query_head : query_head / layer.group()),
      recorded_value_(layer.value.data() + query_head / layer.group() * layer.tokens * layer.head_dim),
      key_row_(static_cast<std::size_t>(layer.tokens), -1),
      value_row_(static_cast<std::size_t>(layer.tokens), -1) {}

void ChangedCache::advance(std::int64_t step) {
  for (; next_ < changes_.rows.size() && changes_.rows[next_].step < step; ++next_) {
    const CacheChanges::Row& row = changes_.rows[next_];
    if (row.head != head_) continue;
    if (row.key >= 0) key_row_[static_cast<std::size_t>(row.position)] = row.key;
    if (row.value >= 0) value_row_[static_cast<std::size_t>(row.position)] = row.value;
  }
}

void ChangedCache::kept_logits(const float* query, const float* logits, const std::vector<std::int32_t>& kept,
                               std::vector<double>& out) const {
  out.resize(kept.size());
  for (std::size_t k = 0; k < kept.size(); ++k) {
    const std::int64_t row = key_row_[static_cast<std::size_t>(kept[k])];
    if (row < 0) {
      out[k] = logits[kept[k]];
      continue;
    }
    const float* key = changes_.storage.data() + row * layer_.head_dim;
    double product = 0;
    for (int i = 0; i < layer_.head_dim; ++i) product += static_cast<double>(query[i]) * key[i];
    const double logit = layer_.attention_scale * product;
    out[k] = layer_.logit_softcap > 0 ? layer_.logit_softcap * std::tanh(logit / layer_.logit_softcap) : logit;
  }
}

const float* ChangedCache::value(std::int32_t position) const {
  const std::int64_t row = value_row_[static_cast<std::size_t>(position)];
  return row < 0 ? recorded_value_ + position * layer_.head_dim : changes_.storage.data() + row * layer_.head_dim;
}

}  // namespace kvreplay
