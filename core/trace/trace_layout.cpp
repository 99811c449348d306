#include "core/trace/trace_layout_internal.h"

#include <algorithm>
#include <bit>

#include "core/base/error.h"
#include "core/trace/trace_structure_internal.h"

namespace kvreplay {
namespace {

constexpr std::int64_t wide_chunk_bytes = std::int64_t{1} << 20;

// 256 rows; fewer where the last chunk, which is stored whole, would waste more than an eighth of the file.
std::int64_t balanced_rows(std::int64_t rows) {
  if (rows >= 8 * rows_of_chunk) return rows_of_chunk;
  const std::int64_t chunks = std::max<std::int64_t>(1, (rows + rows_of_chunk - 1) / rows_of_chunk);
  return std::max<std::int64_t>(1, (rows + chunks - 1) / chunks);
}

// For rows as long as the sequence: chunks of about 1 MiB, so that gathering them takes little memory.
std::int64_t rows_for_wide(std::int64_t rows, std::int64_t row_bytes) {
  const auto fit = static_cast<std::uint64_t>(std::max<std::int64_t>(1, wide_chunk_bytes / row_bytes));
  return std::min(balanced_rows(rows), static_cast<std::int64_t>(std::bit_floor(fit)));
}

class Builder {
 public:
  explicit Builder(const TraceLayout& layout) : layout_(layout) {}

  std::vector<ChunkedDataset> build() {
    using Content = ChunkedDataset::Content;
    list("/tokens/ids", Content::int32, 4, layout_.tokens);
    if (layout_.nll) list("/tokens/nll", Content::tensor, 4, layout_.tokens);
    if (layout_.text_bytes >= 0) {
      list("/tokens/text", Content::bytes, 1, std::max<std::int64_t>(1, layout_.text_bytes));
      list("/tokens/text_offsets", Content::int64, 8, layout_.tokens + 1);
    }
    for (const int layer : layout_.layers) add_layer(layer);
    return std::move(all_);
  }

 private:
  void list(const char* node, ChunkedDataset::Content content, std::int64_t element_bytes, std::int64_t rows) {
    ChunkedDataset d;
    d.node = node;
    d.content = content;
    d.element_bytes = element_bytes;
    d.rows = rows;
    d.rows_chunk = std::min<std::int64_t>(rows, 4096);
    all_.push_back(std::move(d));
  }

  ChunkedDataset& tensor(int layer, LayerDataset which, ChunkedDataset::Axes axes, ElementType type,
                         std::array<std::int64_t, 3> shape) {
    ChunkedDataset d;
    d.node = layer_dataset_node(layer, which);
    d.axes = axes;
    d.type = type;
    d.element_bytes = static_cast<std::int64_t>(element_size(type));
    d.layer = layer;
    d.which = which;
    d.outer = shape[0];
    d.rows = shape[1];
    d.inner = shape[2];
    d.rows_chunk = balanced_rows(d.rows);
    all_.push_back(std::move(d));
    return all_.back();
  }

  void add_layer(int layer) {
    using Axes = ChunkedDataset::Axes;
    const ModelInfo& m = layout_.model;
    const std::int64_t hq = m.num_query_heads, hk = m.num_kv_heads, d = m.head_dim;
    const auto queries = static_cast<std::int64_t>(layout_.query_positions.size());
    tensor(layer, LayerDataset::key, Axes::outer_rows_inner, layout_.tensor_type, {hk, layout_.tokens, d});
    tensor(layer, LayerDataset::value, Axes::outer_rows_inner, layout_.tensor_type, {hk, layout_.tokens, d});
    tensor(layer, LayerDataset::query, Axes::outer_rows_inner, layout_.tensor_type, {hq, queries, d});
    if (layout_.output_projection)
      tensor(layer, LayerDataset::output_projection, Axes::rows_inner, layout_.tensor_type, {1, m.hidden_size, hq * d});
    if (layout_.output_gram)
      tensor(layer, LayerDataset::output_gram, Axes::outer_rows_inner, ElementType::float32, {hq, d, d});
    if (!layout_.attention_positions.empty()) {
      auto& attention = tensor(layer, LayerDataset::attention, Axes::outer_rows_inner, layout_.attention_type,
                               {hq, static_cast<std::int64_t>(layout_.attention_positions.size()), layout_.tokens});
      attention.rows_chunk = rows_for_wide(attention.rows, layout_.tokens * attention.element_bytes);
    }
    if (layout_.log_sum_exp) {
      auto& sums = tensor(layer, LayerDataset::log_sum_exp, Axes::outer_rows, ElementType::float32, {hq, queries, 1});
      sums.outer_chunk = hq;
    }
    if (layout_.attention_column_sum) {
      // One chunk, so that it is there whole or not at all.
      auto& sums =
          tensor(layer, LayerDataset::attention_column_sum, Axes::rows_inner, ElementType::float32, {1, hq, layout_.tokens});
      sums.rows_chunk = hq;
    }
    if (layout_.head_output)
      tensor(layer, LayerDataset::head_output, Axes::outer_rows_inner, layout_.head_output_type, {hq, queries, d});
  }

  const TraceLayout& layout_;
  std::vector<ChunkedDataset> all_;
};

void check_positions(const std::string& path, const char* name, const std::vector<std::int32_t>& positions,
                     std::int64_t tokens) {
  std::int64_t last = -1;
  for (const auto position : positions) {
    if (position <= last || position >= tokens)
      throw Error(path, std::string(name) + " must increase and lie below " + std::to_string(tokens) + ", and hold " +
                            std::to_string(position) + " after " + std::to_string(last));
    last = position;
  }
}

}  // namespace

std::vector<std::int64_t> ChunkedDataset::shape() const {
  switch (axes) {
    case Axes::outer_rows_inner: return {outer, rows, inner};
    case Axes::outer_rows: return {outer, rows};
    case Axes::rows_inner: return {rows, inner};
    case Axes::rows: break;
  }
  return {rows};
}

std::vector<std::int64_t> ChunkedDataset::chunk() const {
  switch (axes) {
    case Axes::outer_rows_inner: return {outer_chunk, rows_chunk, inner};
    case Axes::outer_rows: return {outer_chunk, rows_chunk};
    case Axes::rows_inner: return {rows_chunk, inner};
    case Axes::rows: break;
  }
  return {rows_chunk};
}

std::vector<std::int64_t> ChunkedDataset::chunk_offset(std::int64_t outer_index, std::int64_t row_index) const {
  const std::int64_t o = outer_index * outer_chunk, r = row_index * rows_chunk;
  switch (axes) {
    case Axes::outer_rows_inner: return {o, r, 0};
    case Axes::outer_rows: return {o, r};
    case Axes::rows_inner: return {r, 0};
    case Axes::rows: break;
  }
  return {r};
}

std::int64_t positions_below(const std::vector<std::int32_t>& positions, std::int64_t tokens) {
  return std::lower_bound(positions.begin(), positions.end(), tokens) - positions.begin();
}

TraceLayout checked_layout(const std::string& path, TraceLayout layout) {
  const ModelInfo& m = layout.model;
  if (m.num_layers < 1 || m.num_query_heads < 1 || m.num_kv_heads < 1 || m.head_dim < 1 || m.hidden_size < 1 ||
      m.num_query_heads % m.num_kv_heads != 0)
    throw Error(path, "a trace needs a model with layers, heads that divide evenly, and sizes above 0");
  if (!(m.attention_scale > 0)) throw Error(path, "a trace needs a positive attention scale");
  if (layout.tokens < 1 || layout.tokens >= (std::int64_t{1} << 31))
    throw Error(path, "a trace has from 1 to 2^31 - 1 tokens, not " + std::to_string(layout.tokens));
  if (layout.prompt_length < 1 || layout.prompt_length > layout.tokens)
    throw Error(path, "the prompt must have from 1 to " + std::to_string(layout.tokens) + " tokens, not " +
                          std::to_string(layout.prompt_length));
  if (layout.layers.empty())
    for (int layer = 0; layer < m.num_layers; ++layer) layout.layers.push_back(layer);
  int last = -1;
  for (const int layer : layout.layers) {
    if (layer <= last || layer >= m.num_layers) throw Error(path, "captured layers must ascend and exist in the model");
    last = layer;
  }
  if (!layout.sliding_window.empty() && layout.sliding_window.size() != layout.layers.size())
    throw Error(path, "needs one sliding window a captured layer");
  if (layout.query_positions.empty()) throw Error(path, "a trace records at least one query");
  check_positions(path, "query positions", layout.query_positions, layout.tokens);
  check_positions(path, "attention positions", layout.attention_positions, layout.tokens);
  if (layout.attention_type == ElementType::bfloat16 || layout.head_output_type == ElementType::bfloat16)
    throw Error(path, "attention and head outputs are stored as float16 or float32");
  for (const auto& span : layout.spans)
    if (span.start < 0 || span.end <= span.start || span.end > layout.tokens)
      throw Error(path, "the span \"" + span.label + "\" (" + std::to_string(span.start) + " to " +
                            std::to_string(span.end) + ") is no stretch of the " + std::to_string(layout.tokens) +
                            " tokens");
  return layout;
}

std::vector<ChunkedDataset> datasets_of(const TraceLayout& layout) { return Builder(layout).build(); }

}  // namespace kvreplay
