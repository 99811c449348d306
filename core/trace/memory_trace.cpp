#include "core/trace/memory_trace.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>

#include "core/base/error.h"
#include "core/base/sha256.h"
#include "core/trace/trace_structure_internal.h"

namespace kvreplay {
namespace {

class MemoryTrace final : public Trace {
 public:
  explicit MemoryTrace(MemoryTraceContents contents) : contents_(std::move(contents)) {
    if (contents_.layers.empty())
      for (int layer = 0; layer < contents_.model.num_layers; ++layer) contents_.layers.push_back(layer);
    check();
  }

  const std::string& path() const override { return contents_.path; }
  const ModelInfo& model() const override { return contents_.model; }
  std::int64_t num_tokens() const override { return static_cast<std::int64_t>(contents_.token_ids.size()); }
  std::int64_t prompt_length() const override { return contents_.prompt_length; }
  bool complete() const override { return contents_.complete; }
  const std::vector<int>& layers() const override { return contents_.layers; }
  int sliding_window(int layer) const override {
    const auto found = std::find(contents_.layers.begin(), contents_.layers.end(), layer);
    const auto index = static_cast<std::size_t>(found - contents_.layers.begin());
    return index < contents_.sliding_window.size() ? contents_.sliding_window[index] : 0;
  }
  const std::vector<std::int32_t>& token_ids() const override { return contents_.token_ids; }
  const std::vector<std::int32_t>& query_positions() const override { return contents_.query_positions; }
  const std::vector<std::int32_t>& attention_positions() const override { return contents_.attention_positions; }
  std::int64_t text_position(int kv_head, std::int64_t slot) const override {
    const auto& rows = contents_.key_positions;
    if (rows.empty()) return slot;
    return rows[rows.size() == 1 ? 0 : static_cast<std::size_t>(kv_head)][static_cast<std::size_t>(slot)];
  }
  const std::vector<TextSpan>& spans() const override { return contents_.spans; }
  std::vector<std::string> token_texts() const override { return contents_.token_texts; }
  std::vector<float> nll() const override { return contents_.nll; }
  std::string manifest() const override { return contents_.manifest; }

  std::string identity() const override {
    Sha256 hash;
    hash.update(contents_.token_ids.data(), contents_.token_ids.size() * sizeof(std::int32_t));
    for (const auto& [name, tensor] : contents_.tensors)
      hash.update(tensor.data(), static_cast<std::size_t>(tensor.size()) * sizeof(float));
    return hash.hex();
  }

  bool has(int layer, LayerDataset which) const override { return contents_.tensors.contains({layer, which}); }
  ElementType type(int layer, LayerDataset which) const override {
    find(layer, which);
    const bool stored = which == LayerDataset::key || which == LayerDataset::value || which == LayerDataset::query ||
                        which == LayerDataset::output_projection;
    return stored ? contents_.type : ElementType::float32;
  }
  std::array<std::int64_t, 3> shape(int layer, LayerDataset which) const override { return find(layer, which).shape(); }

  Tensor<float, 3> read(int layer, LayerDataset which, IndexRange heads, IndexRange rows) const override {
    return slice(find(layer, which), where(layer, which), heads, rows);
  }

  std::vector<std::string> extension_members(const std::string& group) const override {
    std::set<std::string> names;
    const std::string prefix = group + "/";
    const auto add = [&](const std::string& node) {
      if (node.starts_with(prefix)) names.insert(node.substr(prefix.size(), node.find('/', prefix.size()) - prefix.size()));
    };
    for (const auto& [node, tensor] : contents_.extensions) add(node);
    for (const auto& [name, text] : contents_.extension_texts) add(name.first);
    return {names.begin(), names.end()};
  }
  std::string extension_text(const std::string& node, const std::string& attribute) const override {
    const auto found = contents_.extension_texts.find({node, attribute});
    return found == contents_.extension_texts.end() ? std::string() : found->second;
  }
  std::optional<std::array<std::int64_t, 3>> extension_shape(const std::string& node) const override {
    const auto found = contents_.extensions.find(node);
    return found == contents_.extensions.end() ? std::nullopt : std::optional(found->second.shape());
  }
  Tensor<float, 3> read_extension(const std::string& node, IndexRange heads, IndexRange rows) const override {
    const auto found = contents_.extensions.find(node);
    if (found == contents_.extensions.end()) return Trace::read_extension(node, heads, rows);
    return slice(found->second, path() + ":" + node, heads, rows);
  }

 private:
  static Tensor<float, 3> slice(const Tensor<float, 3>& tensor, const std::string& where, IndexRange heads,
                                IndexRange rows) {
    if (heads.end < 0) heads.end = tensor.dim(0);
    if (rows.end < 0) rows.end = tensor.dim(1);
    if (heads.begin < 0 || heads.begin > heads.end || heads.end > tensor.dim(0) || rows.begin < 0 || rows.begin > rows.end ||
        rows.end > tensor.dim(1))
      throw Error(where, "has fewer rows than were asked for");
    Tensor<float, 3> out({heads.end - heads.begin, rows.end - rows.begin, tensor.dim(2)});
    for (std::int64_t h = 0; h < out.dim(0); ++h) {
      const float* from = &tensor(heads.begin + h, 0, 0) + rows.begin * tensor.dim(2);
      std::copy(from, from + out.dim(1) * out.dim(2), out.data() + h * out.dim(1) * out.dim(2));
    }
    return out;
  }

  std::string where(int layer, LayerDataset which) const { return contents_.path + ":" + layer_dataset_node(layer, which); }

  const Tensor<float, 3>& find(int layer, LayerDataset which) const {
    const auto found = contents_.tensors.find({layer, which});
    if (found == contents_.tensors.end()) throw Error(where(layer, which), "is not in this trace", produced_by(which));
    return found->second;
  }

  void check() const {
    const ModelInfo& m = contents_.model;
    if (m.num_layers < 1 || m.num_query_heads < 1 || m.num_kv_heads < 1 || m.head_dim < 1 || m.hidden_size < 1 ||
        m.num_query_heads % m.num_kv_heads != 0)
      throw Error(contents_.path, "has an impossible model");
    if (contents_.prompt_length < 1 || contents_.prompt_length > num_tokens())
      throw Error(contents_.path, "has a prompt of " + std::to_string(contents_.prompt_length) + " of " +
                                      std::to_string(num_tokens()) + " tokens");
    for (const auto& [name, tensor] : contents_.tensors) {
      const auto wanted =
          expected_shape(m, name.second, num_tokens(), static_cast<std::int64_t>(contents_.query_positions.size()),
                         static_cast<std::int64_t>(contents_.attention_positions.size()));
      if (tensor.shape() != wanted)
        throw Error(where(name.first, name.second), "has a shape that contradicts the model and tokens");
    }
    for (const int layer : contents_.layers)
      for (const auto which : {LayerDataset::key, LayerDataset::value, LayerDataset::query}) find(layer, which);
  }

  MemoryTraceContents contents_;
};

}  // namespace

std::array<std::int64_t, 3> expected_shape(const ModelInfo& m, LayerDataset which, std::int64_t tokens, std::int64_t queries,
                                           std::int64_t attention_queries) {
  const std::int64_t hq = m.num_query_heads, hk = m.num_kv_heads, d = m.head_dim;
  switch (which) {
    case LayerDataset::key:
    case LayerDataset::value: return {hk, tokens, d};
    case LayerDataset::query:
    case LayerDataset::head_output: return {hq, queries, d};
    case LayerDataset::output_projection: return {1, m.hidden_size, hq * d};
    case LayerDataset::output_gram: return {hq, d, d};
    case LayerDataset::attention: return {hq, attention_queries, tokens};
    case LayerDataset::log_sum_exp: return {1, hq, queries};
    case LayerDataset::attention_column_sum: return {1, hq, tokens};
  }
  return {};
}

std::unique_ptr<Trace> make_memory_trace(MemoryTraceContents contents) {
  return std::make_unique<MemoryTrace>(std::move(contents));
}

}  // namespace kvreplay
