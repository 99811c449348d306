#include "gui/model/document.h"

#include <algorithm>
#include <filesystem>

#include "core/base/text.h"

namespace kvreplay::gui {
namespace {

// Tensors kept for the next who asks: a layer's keys, values and queries of a long trace are some hundred megabytes.
constexpr std::int64_t most_kept_bytes = std::int64_t{192} << 20;

std::int64_t bytes_of(const Tensor<float, 3>& tensor) { return tensor.size() * static_cast<std::int64_t>(sizeof(float)); }

std::vector<HealthNote> examine(const Trace& trace, bool has_texts) {
  std::vector<HealthNote> notes;
  const auto note = [&](HealthNote::Level level, const std::string& text, const std::string& remedy) {
    notes.push_back({level, text, remedy});
  };
  if (!trace.complete())
    note(HealthNote::Level::warning, "This capture was cut off; what it had committed is shown.",
         "`kvreplay capture ... --resume` goes on with it.");
  if (trace.num_decode_steps() == 0)
    note(HealthNote::Level::warning, "There are no generated tokens, so nothing can be measured.",
         "Capture with `--generate 64` to see what evictions do.");
  const bool projected = std::all_of(trace.layers().begin(), trace.layers().end(),
                                     [&](int layer) { return trace.has(layer, LayerDataset::output_projection); });
  if (!projected)
    note(HealthNote::Level::hint, "There is no output projection (W_o) in this trace.",
         "Errors are those of the heads' outputs side by side; policies that need W_o say so.");
  std::int64_t missing = 0;
  for (std::int64_t position = trace.prompt_length(); position < trace.num_tokens(); ++position)
    missing += trace.has_query(position) ? 0 : 1;
  if (missing > 0)
    note(HealthNote::Level::warning, std::to_string(missing) + " generated tokens have no recorded query.",
         "Their steps have no values. Capture with `--queries all` or `window:N`.");
  if (!has_texts) note(HealthNote::Level::hint, "The trace has no texts of its tokens.", "Token ids are shown instead.");
  return notes;
}

}  // namespace

std::shared_ptr<const Document> Document::open(const std::string& path) {
  return std::make_shared<const Document>(open_trace(path));
}

Document::Document(std::unique_ptr<Trace> trace)
    : trace_(std::move(trace)), identity_(trace_->identity()), texts_(trace_->token_texts()) {
  has_texts_ = !texts_.empty();
  if (!has_texts_)
    for (const auto id : trace_->token_ids()) texts_.push_back("#" + std::to_string(id) + " ");
  texts_.resize(static_cast<std::size_t>(trace_->num_tokens()));
  health_ = examine(*trace_, has_texts_);
}

std::string Document::name() const { return std::filesystem::path(path()).filename().string(); }

std::string Document::token_label(std::int64_t position) const { return printable(token_text(position)); }

const TextSpan* Document::span_at(std::int64_t position) const {
  for (const TextSpan& span : spans())
    if (span.contains(position)) return &span;
  return nullptr;
}

std::shared_ptr<const Tensor<float, 3>> Document::tensor(int layer, LayerDataset which) const {
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(kept_.begin(), kept_.end(),
                                    [&](const Kept& kept) { return kept.layer == layer && kept.which == which; });
    if (found != kept_.end()) {
      std::rotate(found, found + 1, kept_.end());
      return kept_.back().tensor;
    }
  }
  // Without the lock: others get what is there meanwhile. Two that ask for the same read it twice.
  auto tensor = std::make_shared<const Tensor<float, 3>>(trace_->read(layer_number(layer), which));
  const std::lock_guard lock(mutex_);
  kept_.push_back({layer, which, tensor});
  std::int64_t total = 0;
  for (const Kept& kept : kept_) total += bytes_of(*kept.tensor);
  while (kept_.size() > 1 && total > most_kept_bytes) {
    total -= bytes_of(*kept_.front().tensor);
    kept_.erase(kept_.begin());
  }
  return tensor;
}

}  // namespace kvreplay::gui
