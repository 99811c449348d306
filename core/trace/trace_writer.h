// Writing a trace while it is being made: sizes are known before the first byte, whole chunks are written, and what is
// committed survives a kill at any moment.
//
//   TraceWriter writer = TraceWriter::create("t.h5", layout);
//   for each block of tokens: writer.append_tokens(...);
//                             for each layer: writer.append(layer, LayerDataset::key, rows); ...
//                             writer.commit(tokens_so_far);
//   writer.finish(tokens);                                    // OUT.partial becomes OUT
//
// Chunks hold 256 tokens. A commit that does not end on one writes the chunk as far as it is full and again later, so a
// generation commits now and then rather than after every token.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/trace/trace.h"

namespace kvreplay {

// Rows of a head that a chunk holds where a dataset has many.
inline constexpr std::int64_t rows_of_chunk = 256;

// Everything about a trace but its tensors. Fixed before the capture starts.
struct TraceLayout {
  ModelInfo model;
  std::int64_t tokens = 0;  // T at most; finish() shrinks the file when generation ended early
  std::int64_t prompt_length = 0;
  std::vector<int> layers;          // captured, ascending; all of the model when empty
  std::vector<int> sliding_window;  // per entry of `layers`; empty: none
  std::vector<std::int32_t> query_positions;
  std::vector<std::int32_t> attention_positions;      // empty: attention is not stored
  ElementType tensor_type = ElementType::float16;     // key, value, query, output_projection
  ElementType attention_type = ElementType::float16;  // attention
  ElementType head_output_type = ElementType::float32;
  bool output_projection = true;
  bool output_gram = false;  // float32; for those who need no more of W_o than its Gram matrices
  bool log_sum_exp = true;
  bool attention_column_sum = true;
  bool head_output = true;
  bool nll = true;
  std::int64_t text_bytes = -1;  // size of /tokens/text: exact when known, an upper bound for generated text; -1: no text
  std::vector<TextSpan> spans;
  std::int64_t extension_bytes = 0;  // of what add_extension() will be given, as stored
  std::string manifest;              // JSON
  std::string created_by, created_utc, command;
};

class TraceWriter {
 public:
  // The finished file's size in bytes, right within 2 %.
  static std::int64_t predicted_size(const TraceLayout& layout);

  // Creates PATH.partial. Throws Error when the folder is not writable or has less free space than predicted_size, and when
  // PATH.partial holds tokens of a capture that was cut off.
  static TraceWriter create(const std::string& path, const TraceLayout& layout);
  // Opens PATH.partial of a capture that was cut off. Throws Error unless the layout is the same. committed() tells where
  // to go on.
  static TraceWriter resume(const std::string& path, const TraceLayout& layout);

  TraceWriter(TraceWriter&&) noexcept;
  TraceWriter& operator=(TraceWriter&&) noexcept;
  ~TraceWriter();  // without finish(): what is committed stays in PATH.partial

  std::int64_t committed() const;

  // Token ids from position `first` on; nll (same length or empty) and the tokens' bytes (same length or empty).
  void append_tokens(std::int64_t first, std::span<const std::int32_t> ids, std::span<const float> nll,
                     const std::vector<std::string>& texts);
  // Rows that follow those already appended to this dataset: [heads, n, columns] of key, value, query, head_output,
  // attention (with fewer columns, the rest is 0); for log_sum_exp [1, heads, n]. The writer gathers them into whole
  // chunks.
  void append(int layer, LayerDataset which, TensorView<const float, 3> rows);
  // Written whole, once, before finish(): output_projection [1, C, Hq * d]; output_gram [Hq, d, d]; attention_column_sum
  // [1, Hq, T] when the prompt is done, before the commit that says so. In a resumed capture, what is there already is left
  // alone.
  void write_whole(int layer, LayerDataset which, TensorView<const float, 3> values);
  // All datasets hold everything of the first `tokens` tokens; flushed in the order that survives kill -9. Throws Error
  // when something was not appended, or the disk is full: what was committed before stays.
  void commit(std::int64_t tokens);
  // Datasets [a, b, c] of the layout's tensor type, and attributes, beside those of the layout (data/trace-format.md,
  // extensions). Kept in memory until finish(), which writes them outside single-writer mode: a kill in that moment leaves a
  // file that may not open.
  void add_extension(const std::string& node, Tensor<float, 3> values);
  void add_extension_text(const std::string& node, const std::string& attribute, const std::string& text);
  // tokens: how many there are in the end (at most layout.tokens). Renames PATH.partial to PATH.
  void finish(std::int64_t tokens);

 private:
  struct State;
  explicit TraceWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace kvreplay
