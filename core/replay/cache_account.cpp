#include <algorithm>
#include <array>

#include "core/base/crc32c.h"
#include "core/replay/budget.h"
#include "core/replay/cache_account_internal.h"

namespace kvreplay {
namespace {

// How many stored heads one row of evicted_at stands for: a layer's one set is stored for every KV head.
std::int64_t stored_rows(const LoadedLayer& layer, Granularity granularity, std::int64_t heads) {
  return stored_heads(granularity, layer.trace->model()) / heads;
}

}  // namespace

EvictedRows::EvictedRows(const LoadedLayer& layer, const RunEvictions& run)
    : run_(run), first_candidate_(layer.first_candidate) {
  if (run.kept == nullptr) return;
  scratch_.assign(static_cast<std::size_t>(layer.tokens), -1);
  std::fill(scratch_.begin() + layer.first_candidate, scratch_.begin() + layer.prompt, 0);
}

std::span<const std::int32_t> EvictedRows::row(std::int64_t head) {
  if (run_.kept == nullptr) return run_.evicted_at[head].flat();
  if (head == shown_) return scratch_;
  const auto show = [&](std::int64_t which, std::int32_t value) {
    for (const std::int32_t position : (*run_.kept)[which]) scratch_[static_cast<std::size_t>(position)] = value;
  };
  if (shown_ >= 0) show(shown_, 0);
  show(shown_ = head, -1);
  return scratch_;
}

std::int64_t stored_after_prompt(const LoadedLayer& layer, Granularity granularity, const RunEvictions& run) {
  std::int64_t kept = 0;
  if (run.kept != nullptr) {
    kept = static_cast<std::int64_t>(run.kept->position.size());
  } else {
    for (std::int64_t h = 0; h < run.heads(); ++h) {
      const auto candidates = run.evicted_at[h].flat().subspan(static_cast<std::size_t>(layer.first_candidate),
                                                               static_cast<std::size_t>(layer.candidates()));
      kept += layer.candidates() - std::count(candidates.begin(), candidates.end(), 0);
    }
  }
  return kept * stored_rows(layer, granularity, run.heads());
}

CacheAccount::CacheAccount(const Trace& trace, Granularity granularity, Hash hash)
    : granularity_(granularity),
      which_(hash),
      bytes_of_token_(token_bytes(trace)),
      held_at_step_(static_cast<std::size_t>(trace.num_decode_steps()) + 1, 0),
      change_(held_at_step_.size() + 1, 0) {}

void CacheAccount::add_layer(const LoadedLayer& layer, const RunEvictions& run) {
  held_at_step_[0] += stored_after_prompt(layer, granularity_, run);
  const std::int64_t rows = stored_rows(layer, granularity_, run.heads());
  if (which_ == Hash::evicted_at) {
    EvictedRows all(layer, run);
    for (std::int64_t h = 0; h < run.heads(); ++h) hash_.update(all.row(h).data(), all.row(h).size_bytes());
  }
  for (std::int64_t h = 0; h < run.heads(); ++h) {
    if (run.kept != nullptr)
      add_kept(layer, (*run.kept)[h], rows);
    else
      add_row(layer, run.evicted_at[h].flat(), rows);
  }
}

// A token is held from its own step (or from the start) up to the step after which it is evicted, as far as the sliding
// window shows it: +1 where it enters, -1 after its last step.
void CacheAccount::add_row(const LoadedLayer& layer, std::span<const std::int32_t> row, std::int64_t rows) {
  const std::int64_t prompt = layer.prompt, steps = layer.steps();
  const int window = layer.sliding_window;
  kept_.clear();
  for (std::int64_t i = layer.first_candidate; i < layer.tokens; ++i) {
    const std::int64_t when = row[static_cast<std::size_t>(i)];
    evicted_tokens_ += when != -1 ? 1 : 0;
    if (i < prompt && when != 0) kept_.push_back(static_cast<std::int32_t>(i));
    const std::int64_t first = std::max<std::int64_t>(1, i - prompt + 1);
    std::int64_t last = when < 0 ? steps : std::max<std::int64_t>(when, i >= prompt ? first : 0);
    if (window > 0) last = std::min(last, i + window - prompt);
    if (last < first) continue;
    ++change_[static_cast<std::size_t>(first)];
    --change_[static_cast<std::size_t>(std::min(last, steps)) + 1];
  }
  if (kept_.empty() && layer.candidates() > 0) head_emptied_ = true;
  if (which_ == Hash::kept_prompt) hash_kept(kept_);
  add_held(layer, rows);
}

// The same where nothing is evicted after the prompt: no token of its own takes any time without a sliding window.
void CacheAccount::add_kept(const LoadedLayer& layer, std::span<const std::int32_t> kept, std::int64_t rows) {
  const std::int64_t prompt = layer.prompt, steps = layer.steps();
  const int window = layer.sliding_window;
  const auto count = static_cast<std::int64_t>(kept.size());
  evicted_tokens_ += layer.candidates() - count;
  if (count == 0 && layer.candidates() > 0) head_emptied_ = true;
  if (which_ == Hash::kept_prompt) hash_kept(kept);
  const auto leaves_after = [&](std::int64_t position, std::int64_t first) {
    const std::int64_t last = position + window - prompt;
    if (last >= first && last < steps) --change_[static_cast<std::size_t>(last) + 1];
    return last >= first;
  };
  if (steps == 0) return;
  std::int64_t at_start = count;
  if (window > 0) at_start = std::count_if(kept.begin(), kept.end(), [&](auto i) { return leaves_after(i, 1); });
  change_[1] += at_start;
  for (std::int64_t s = 1; s <= steps; ++s) {
    ++change_[static_cast<std::size_t>(s)];
    if (window > 0) leaves_after(prompt + s - 1, s);
  }
  add_held(layer, rows);
}

void CacheAccount::add_held(const LoadedLayer& layer, std::int64_t rows) {
  std::int64_t now = 0;
  for (std::int64_t s = 1; s <= layer.steps(); ++s)
    held_at_step_[static_cast<std::size_t>(s)] += rows * (now += change_[static_cast<std::size_t>(s)]);
  std::fill(change_.begin(), change_.end(), 0);
}

void CacheAccount::hash_kept(std::span<const std::int32_t> kept) {
  // A checksum of each head first: SHA-256 of every position would take longer than all else that a run of a sweep needs.
  const std::array<std::uint32_t, 2> head = {static_cast<std::uint32_t>(kept.size()),
                                             crc32c(kept.data(), kept.size_bytes())};
  hash_.update(head.data(), sizeof head);
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
