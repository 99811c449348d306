// An opened trace, as panels use it: sizes, the text of tokens, marked stretches, tensors of a layer on demand.
//
// Opening reads no tensor; what is read later is kept as long as it is among the last used. Every function may be called
// from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/trace/trace.h"

namespace kvreplay::gui {

// Something about a file that its reader should know, said in place.
struct HealthNote {
  enum class Level : std::uint8_t { hint, warning };
  Level level = Level::hint;
  std::string text;    // "has no output projection (W_o)"
  std::string remedy;  // "errors are of the heads' outputs, concatenated; capture again to have it": may be empty
};

class Document {
 public:
  // Throws Error.
  static std::shared_ptr<const Document> open(const std::string& path);
  // Of a trace that is there already: tests.
  explicit Document(std::unique_ptr<Trace> trace);

  const Trace& trace() const { return *trace_; }
  const std::string& path() const { return trace_->path(); }
  std::string name() const;  // the file's name without its folders
  const std::string& identity() const { return identity_; }

  const ModelInfo& model() const { return trace_->model(); }
  std::int64_t num_tokens() const { return trace_->num_tokens(); }        // T
  std::int64_t prompt_length() const { return trace_->prompt_length(); }  // P
  int num_steps() const { return static_cast<int>(trace_->num_decode_steps()); }
  int num_query_heads() const { return model().num_query_heads; }
  int num_kv_heads() const { return model().num_kv_heads; }
  // Layers count from 0 among those that were captured; layer_number() is the model's own index.
  int num_layers() const { return static_cast<int>(trace_->layers().size()); }
  int layer_number(int layer) const { return trace_->layers()[static_cast<std::size_t>(layer)]; }

  // The bytes of a token as the trace has them, which may be a part of a character; "#1234" (its id) where it has no texts.
  const std::string& token_text(std::int64_t position) const { return texts_[static_cast<std::size_t>(position)]; }
  // The same with control characters and broken UTF-8 as escapes: for labels of one line.
  std::string token_label(std::int64_t position) const;
  bool has_texts() const { return has_texts_; }
  const std::vector<TextSpan>& spans() const { return trace_->spans(); }
  const TextSpan* span_at(std::int64_t position) const;  // null: in none

  const std::vector<HealthNote>& health() const { return health_; }

  // One dataset of a layer, all of it, as float32 (shapes: core/trace/trace.h). Throws Error where the trace lacks it.
  std::shared_ptr<const Tensor<float, 3>> tensor(int layer, LayerDataset which) const;
  bool has(int layer, LayerDataset which) const { return trace_->has(layer_number(layer), which); }

 private:
  struct Kept {
    int layer = 0;
    LayerDataset which = LayerDataset::key;
    std::shared_ptr<const Tensor<float, 3>> tensor;
  };

  std::unique_ptr<Trace> trace_;
  std::string identity_;
  std::vector<std::string> texts_;
  bool has_texts_ = false;
  std::vector<HealthNote> health_;
  mutable std::mutex mutex_;
  mutable std::vector<Kept> kept_;  // the last used at the end
};

}  // namespace kvreplay::gui
