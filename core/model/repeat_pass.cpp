#include "core/model/repeat_pass.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/error.h"

namespace kvreplay {
namespace {

std::string node_of(int layer, const char* name) { return "/repeat_pass/" + layer_name(layer) + "/" + name; }

std::int64_t rows_of(const std::vector<RepeatReading>& readings) {
  std::int64_t rows = 0;
  for (const RepeatReading& reading : readings) rows += std::ssize(reading.ids);
  return rows;
}

// Collects queries and keys, reading after reading.
class RepeatObserver final : public EngineObserver {
 public:
  RepeatObserver(const TraceLayout& layout, std::int64_t rows) : layout_(layout) {
    const ModelInfo& m = layout.model;
    for (std::size_t i = 0; i < layout.layers.size(); ++i) {
      query.push_back(Tensor<float, 3>({m.num_query_heads, rows, m.head_dim}));
      key.push_back(Tensor<float, 3>({m.num_kv_heads, rows, m.head_dim}));
    }
  }

  bool wants_layer(int layer) const override {
    return std::binary_search(layout_.layers.begin(), layout_.layers.end(), layer);
  }

  void on_layer(const LayerBlock& block) override {
    const auto found = std::lower_bound(layout_.layers.begin(), layout_.layers.end(), block.layer);
    const auto index = static_cast<std::size_t>(found - layout_.layers.begin());
    copy(block.query, block.first + offset, query[index]);
    copy(block.key, block.first + offset, key[index]);
  }

  std::int64_t offset = 0;                   // row of position 0
  std::vector<Tensor<float, 3>> query, key;  // a captured layer: [heads, rows, d]

 private:
  static void copy(TensorView<const float, 3> from, std::int64_t row, Tensor<float, 3>& to) {
    for (std::int64_t h = 0; h < from.dim(0); ++h) std::copy_n(&from(h, 0, 0), from.dim(1) * from.dim(2), &to(h, row, 0));
  }

  const TraceLayout& layout_;
};

std::string layout_text(const RepeatRequest& request, const std::vector<RepeatReading>& readings) {
  nlohmann::ordered_json json;
  json["context_begin"] = request.context_begin;
  json["context_end"] = request.context_end;
  json["chunks"] = nlohmann::ordered_json::array();
  for (const RepeatReading& reading : readings) json["chunks"].push_back({reading.begin, reading.end, reading.ids.size()});
  return json.dump();
}

}  // namespace

RepeatRequest RepeatRequest::with_tokenizer(const Tokenizer& tokenizer) {
  RepeatRequest request;
  request.first = tokenizer.encode("\n\nRepeat the previous context exactly.", false);
  request.next = tokenizer.encode("\n\nRepeat the part of the previous context exactly, starting with", false);
  return request;
}

std::vector<RepeatReading> repeat_readings(const std::vector<std::int32_t>& prompt, const RepeatRequest& request) {
  if (request.context_begin < 0 || request.context_end <= request.context_begin || request.context_end > std::ssize(prompt))
    throw Error("--repeat-pass", "the context from " + std::to_string(request.context_begin) + " to " +
                                     std::to_string(request.context_end) + " is no stretch of the prompt of " +
                                     std::to_string(prompt.size()) + " tokens");
  std::vector<RepeatReading> readings;
  for (std::int64_t begin = request.context_begin; begin < request.context_end; begin += request.chunk) {
    RepeatReading reading{begin, std::min(begin + request.chunk, request.context_end), {}};
    auto& ids = reading.ids;
    const bool first = begin == request.context_begin;
    ids = first ? request.first : request.next;
    if (!first) {
      const std::int64_t from = std::max(request.context_begin, begin - request.postfix);
      ids.insert(ids.end(), prompt.begin() + from, prompt.begin() + begin);
    }
    ids.insert(ids.end(), request.suffix.begin(), request.suffix.end());
    ids.insert(ids.end(), prompt.begin() + reading.begin, prompt.begin() + reading.end);
    readings.push_back(std::move(reading));
  }
  return readings;
}

std::int64_t repeat_bytes(const std::vector<RepeatReading>& readings, const TraceLayout& layout) {
  const ModelInfo& m = layout.model;
  const std::int64_t row = static_cast<std::int64_t>(element_size(layout.tensor_type)) * m.head_dim;
  // A file that is opened once more and gets further groups: measured, for one layer and for several.
  constexpr std::int64_t overhead = 6500;
  return overhead + rows_of(readings) * row * (m.num_query_heads + m.num_kv_heads) * std::ssize(layout.layers);
}

void capture_repeat_pass(const Engine& engine, Sequence& sequence, std::int64_t prompt_length, const RepeatRequest& request,
                         const std::vector<RepeatReading>& readings, const TraceLayout& layout, TraceWriter& writer,
                         Job& job) {
  RepeatObserver observer(layout, rows_of(readings));
  std::int64_t row = 0;
  for (const RepeatReading& reading : readings) {
    sequence.rewind(prompt_length);
    observer.offset = row - prompt_length;
    engine.read(sequence, reading.ids, observer, job);
    row += std::ssize(reading.ids);
  }
  writer.add_extension_text("/repeat_pass", "layout", layout_text(request, readings));
  for (std::size_t i = 0; i < layout.layers.size(); ++i) {
    writer.add_extension(node_of(layout.layers[i], "query"), std::move(observer.query[i]));
    writer.add_extension(node_of(layout.layers[i], "key"), std::move(observer.key[i]));
  }
}

}  // namespace kvreplay
