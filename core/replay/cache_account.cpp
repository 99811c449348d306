#include <algorithm>

#include "core/replay/budget.h"
#include "core/replay/cache_account_internal.h"

namespace kvreplay {
namespace {

// How many stored heads one row of evicted_at stands for: a layer's one set is stored for every KV head.
std::int64_t stored_rows(const LoadedLayer& layer, Granularity granularity, std::int64_t heads) {
  return stored_heads(granularity, layer.trace->model()) / heads;
}

}  // namespace

std::int64_t stored_after_prompt(const LoadedLayer& layer, Granularity granularity,
                                 TensorView<const std::int32_t, 2> evicted_at) {
  std::int64_t kept = 0;
  for (std::int64_t h = 0; h < evicted_at.dim(0); ++h) {
    const auto candidates = evicted_at[h].flat().subspan(static_cast<std::size_t>(layer.first_candidate),
                                                         static_cast<std::size_t>(layer.candidates()));
    kept += layer.candidates() - std::count(candidates.begin(), candidates.end(), 0);
  }
  return kept * stored_rows(layer, granularity, evicted_at.dim(0));
}

CacheAccount::CacheAccount(const Trace& trace, Granularity granularity)
    : granularity_(granularity),
      bytes_of_token_(token_bytes(trace)),
      held_at_step_(static_cast<std::size_t>(trace.num_decode_steps()) + 1, 0) {}

void CacheAccount::add_layer(const LoadedLayer& layer, TensorView<const std::int32_t, 2> evicted_at) {
  held_at_step_[0] += stored_after_prompt(layer, granularity_, evicted_at);
  hash_.update(evicted_at.data(), static_cast<std::size_t>(evicted_at.size()) * sizeof(std::int32_t));
  const std::int64_t heads = evicted_at.dim(0);
  const std::int64_t rows = stored_rows(layer, granularity_, heads);
  for (std::int64_t h = 0; h < heads; ++h) {
    const std::int32_t* row = evicted_at[h].data();
    std::int64_t kept = 0;
    for (std::int64_t i = layer.first_candidate; i < layer.prompt; ++i) {
      kept += row[i] != 0 ? 1 : 0;
      evicted_tokens_ += row[i] != -1 ? 1 : 0;
    }
    for (std::int64_t i = layer.prompt; i < layer.tokens; ++i) evicted_tokens_ += row[i] != -1 ? 1 : 0;
    if (kept == 0 && layer.candidates() > 0) head_emptied_ = true;
    if (layer.steps() > 0) add_held(layer, row, rows);
  }
}

void CacheAccount::add_held(const LoadedLayer& layer, const std::int32_t* row, std::int64_t rows) {
  // A token is held from its own step (or from the start) up to the step after which it is evicted, as far as the
  // sliding window shows it: +1 where it enters, -1 after its last step.
  const std::int64_t prompt = layer.prompt, steps = layer.steps();
  const int window = layer.sliding_window;
  std::vector<std::int64_t> change(static_cast<std::size_t>(steps) + 2, 0);
  for (std::int64_t i = layer.first_candidate; i < layer.tokens; ++i) {
    const std::int64_t first = std::max<std::int64_t>(1, i - prompt + 1);
    std::int64_t last = row[i] < 0 ? steps : std::max<std::int64_t>(row[i], i >= prompt ? first : 0);
    if (window > 0) last = std::min(last, i + window - prompt);
    if (last < first) continue;
    ++change[static_cast<std::size_t>(first)];
    --change[static_cast<std::size_t>(std::min(last, steps)) + 1];
  }
  std::int64_t now = 0;
  for (std::int64_t s = 1; s <= steps; ++s)
    held_at_step_[static_cast<std::size_t>(s)] += rows * (now += change[static_cast<std::size_t>(s)]);
}

std::int64_t CacheAccount::peak_cache_bytes() const {
  const auto first = held_at_step_.begin() + (held_at_step_.size() > 1 ? 1 : 0);
  return *std::max_element(first, held_at_step_.end()) * bytes_of_token_;
}

std::int64_t uniform_cache_bytes(const Trace& trace, std::int64_t tokens) {
  std::int64_t total = 0;
  for (const int layer : trace.layers()) {
    const std::int64_t window = trace.sliding_window(layer);
    const std::int64_t candidates =
        window > 0 ? std::min<std::int64_t>(window, trace.prompt_length()) : trace.prompt_length();
    total += std::min(tokens, candidates);
  }
  return total * trace.model().num_kv_heads * token_bytes(trace);
}

std::int64_t full_cache_bytes(const Trace& trace) { return uniform_cache_bytes(trace, trace.prompt_length()); }

}  // namespace kvreplay
