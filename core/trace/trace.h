// A trace: what the attention of one model saw while it read one sequence (data/trace-format.md has the file format).
//
// Trace is a read-only view. It gives tensors slice by slice, as float32, and never holds more than what was asked for.
//
//   auto trace = open_trace("t.h5");
//   Tensor<float, 3> key = trace->read(0, LayerDataset::key);             // [Hk, T, d]
//   Tensor<float, 3> tail = trace->read(0, LayerDataset::query, {0, 8}, {100, 132});
//
// Several threads may read at once.
//
// Symbols: L layers, Hq query heads, Hk KV heads, d head dimension, C hidden size, T tokens (P prompt, then S
// generated), Tq recorded queries.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/element_type.h"
#include "core/base/error.h"
#include "core/base/tensor.h"

namespace kvreplay {

struct ModelInfo {
  std::string name;
  std::string architecture;
  int num_layers = 0;  // of the model; a trace may have captured fewer
  int num_query_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int hidden_size = 0;
  double attention_scale = 0;
  std::optional<double> logit_softcap;  // of attention scores
  std::optional<double> rope_theta;
  std::string rope_scaling;  // JSON, or empty
  std::string rope_layout;   // "half", "interleaved" or empty
  std::string weights_sha256;

  int group_size() const { return num_query_heads / num_kv_heads; }
};

struct TextSpan {
  int start = 0;
  int end = 0;  // one past the last token
  std::string label;

  bool contains(std::int64_t position) const { return position >= start && position < end; }
};

// The datasets of one layer. Shapes as [heads, rows, columns]; `rows` is what RowRange selects.
enum class LayerDataset : std::uint8_t {
  key,                   // [Hk, T, d]
  value,                 // [Hk, T, d]
  query,                 // [Hq, Tq, d]
  output_projection,     // [1, C, Hq * d]
  output_gram,           // [Hq, d, d]
  attention,             // [Hq, Ta, T]
  log_sum_exp,           // [1, Hq, Tq]
  attention_column_sum,  // [1, Hq, T]
  head_output,           // [Hq, Tq, d]
};
std::string layer_name(int layer);                        // of a layer's group: "007"
std::string_view layer_dataset_name(LayerDataset which);  // the name in the file: "key", ...

struct IndexRange {
  std::int64_t begin = 0;
  std::int64_t end = -1;  // -1: to the last
};

class Trace {
 public:
  virtual ~Trace() = default;

  virtual const std::string& path() const = 0;  // as given by the user; "<memory>" for traces without a file
  virtual const ModelInfo& model() const = 0;
  virtual std::int64_t num_tokens() const = 0;                                      // T, what is committed
  virtual std::int64_t prompt_length() const = 0;                                   // P
  virtual bool complete() const = 0;                                                // false: a capture that was cut off
  std::int64_t num_decode_steps() const { return num_tokens() - prompt_length(); }  // S

  virtual const std::vector<int>& layers() const = 0;              // the captured layers, ascending, the model's own indices
  virtual int sliding_window(int layer) const = 0;                 // 0: none
  virtual const std::vector<std::int32_t>& token_ids() const = 0;  // [T]
  virtual const std::vector<std::int32_t>& query_positions() const = 0;      // [Tq], increasing
  bool has_query(std::int64_t position) const;                               // whether it was recorded
  virtual const std::vector<std::int32_t>& attention_positions() const = 0;  // [Ta], empty when no attention is stored
  // The position in the text that a key was rotated for. It is the token's own index but in views of a cache from which
  // tokens were evicted, where keys are numbered by slot.
  virtual std::int64_t text_position(int /*kv_head*/, std::int64_t slot) const { return slot; }
  virtual const std::vector<TextSpan>& spans() const = 0;
  virtual std::vector<std::string> token_texts() const = 0;  // [T] bytes of each token; empty when absent
  virtual std::vector<float> nll() const = 0;                // [T]; empty when absent
  virtual std::string manifest() const = 0;                  // JSON, or empty
  // SHA-256 of the file's contents where that is cheap, else an identity that changes with them.
  virtual std::string identity() const = 0;

  virtual bool has(int layer, LayerDataset which) const = 0;
  virtual ElementType type(int layer, LayerDataset which) const = 0;
  // Elements of one layer's dataset as stored: heads × rows × columns.
  virtual std::array<std::int64_t, 3> shape(int layer, LayerDataset which) const = 0;

  // Reads a slice as float32. Throws Error naming file, dataset and what would produce it when the dataset is absent,
  // and naming the position when a NaN or an infinity is found (log_sum_exp and attention are checked too).
  virtual Tensor<float, 3> read(int layer, LayerDataset which, IndexRange heads = {}, IndexRange rows = {}) const = 0;

  // The same elements as they are stored, in type(), row-major, to `out`, which holds that many. NaN and infinities are let
  // through: for readers that check on a device.
  virtual void read_stored(int layer, LayerDataset which, void* out, IndexRange heads = {}, IndexRange rows = {}) const;

  // The error of a reader that needs the query of a position that is not there; purpose: "a policy that scores with the
  // last 32 prompt queries". It says what would have recorded it, or what lets it be used.
  virtual Error missing_query(std::int64_t position, const std::string& purpose) const;

  // Extensions: what a file holds beside these datasets, for those who know of it (data/trace-format.md lists them). None
  // of it is checked when the file is opened; compare the shape before reading.
  virtual std::vector<std::string> extension_members(const std::string& /*group*/) const { return {}; }  // names, ascending
  // Text of an attribute; empty when the node or the attribute is absent or holds no text.
  virtual std::string extension_text(const std::string& /*node*/, const std::string& /*attribute*/) const { return {}; }
  // Of a dataset with three axes and one of the three element types; none when there is no such dataset.
  virtual std::optional<std::array<std::int64_t, 3>> extension_shape(const std::string& /*node*/) const { return {}; }
  // As read(). Throws Error when extension_shape() gives none.
  virtual Tensor<float, 3> read_extension(const std::string& node, IndexRange heads = {}, IndexRange rows = {}) const;

  // Bytes of one layer's key, value and query as stored: the unit of the memory bound of a replay.
  std::int64_t layer_bytes(int layer) const;
};

enum class Trust : std::uint8_t {
  automatic,  // files this program wrote on this machine are read here, all others in a child process with limits
  trusted,    // read in this process
  sandboxed,  // always in a child process
};

// Opens a trace and checks every shape and attribute against the others before anything large is allocated. A capture
// that was cut off opens up to its committed mark (complete() is false).
std::unique_ptr<Trace> open_trace(const std::string& path, Trust trust = Trust::automatic);

}  // namespace kvreplay
