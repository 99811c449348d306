// open_trace: a Trace over a file.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/base/error.h"
#include "core/trace/identity.h"
#include "core/trace/source_internal.h"
#include "core/trace/tensor_reading_internal.h"
#include "core/trace/trace.h"
#include "core/trace/trace_structure_internal.h"

namespace kvreplay {
namespace {

class FileTrace final : public Trace {
 public:
  FileTrace(const std::string& path, Trust trust) : source_(open_source(path, trust)) {
    Problems problems;
    structure_ = read_trace_structure(*source_, problems);
    if (!problems.empty()) {
      const Problem& first = problems.front();
      throw Error(first.node == "/" ? path : path + ":" + first.node, first.what, first.remedy);
    }
    for (const auto& layer : structure_.layers) layers_.push_back(layer.layer);
  }

  const std::string& path() const override { return source_->path(); }
  const ModelInfo& model() const override { return structure_.model; }
  std::int64_t num_tokens() const override { return structure_.tokens; }
  std::int64_t prompt_length() const override { return structure_.prompt_length; }
  bool complete() const override { return structure_.complete; }
  const std::vector<int>& layers() const override { return layers_; }
  int sliding_window(int layer) const override { return entry(layer).sliding_window; }
  const std::vector<std::int32_t>& token_ids() const override { return structure_.token_ids; }
  const std::vector<std::int32_t>& query_positions() const override { return structure_.query_positions; }
  const std::vector<std::int32_t>& attention_positions() const override { return structure_.attention_positions; }
  const std::vector<TextSpan>& spans() const override { return structure_.spans; }
  std::string manifest() const override { return structure_.manifest; }

  std::vector<std::string> token_texts() const override {
    if (!structure_.has_text) return {};
    const std::int64_t zero = 0, count = structure_.tokens + 1;
    std::vector<std::int64_t> offsets(static_cast<std::size_t>(count));
    source_->read_into("/tokens/text_offsets", {&zero, 1}, {&count, 1}, offsets.data());
    // The file may have changed since it was checked.
    if (!std::is_sorted(offsets.begin(), offsets.end()) || offsets.front() != 0)
      throw Error(path() + ":/tokens/text_offsets", "do not rise");
    std::string bytes(static_cast<std::size_t>(offsets.back()), '\0');
    source_->read_into("/tokens/text", {&zero, 1}, {&offsets.back(), 1}, bytes.data());
    std::vector<std::string> texts;
    for (std::size_t t = 0; t + 1 < offsets.size(); ++t)
      texts.push_back(
          bytes.substr(static_cast<std::size_t>(offsets[t]), static_cast<std::size_t>(offsets[t + 1] - offsets[t])));
    return texts;
  }

  std::vector<float> nll() const override {
    if (!structure_.has_nll) return {};
    const std::int64_t zero = 0;
    std::vector<float> values(static_cast<std::size_t>(structure_.tokens));
    source_->read_into("/tokens/nll", {&zero, 1}, {&structure_.tokens, 1}, values.data());
    for (std::size_t t = 1; t < values.size(); ++t)
      if (!std::isfinite(values[t]))
        throw Error(path() + ":/tokens/nll", "holds a NaN or an infinity at token " + std::to_string(t));
    return values;
  }

  std::string identity() const override { return file_identity(path()); }

  bool has(int layer, LayerDataset which) const override {
    return entry(layer).tensors[static_cast<std::size_t>(which)].has_value();
  }
  ElementType type(int layer, LayerDataset which) const override { return tensor(layer, which).type; }
  std::array<std::int64_t, 3> shape(int layer, LayerDataset which) const override { return tensor(layer, which).shape; }

  Tensor<float, 3> read(int layer, LayerDataset which, IndexRange heads, IndexRange rows) const override {
    return read_stored_tensor(*source_, tensor(layer, which), heads, rows);
  }

  void read_stored(int layer, LayerDataset which, void* out, IndexRange heads, IndexRange rows) const override {
    read_stored_bytes(*source_, tensor(layer, which), heads, rows, static_cast<std::byte*>(out));
  }

  std::vector<std::string> extension_members(const std::string& group) const override {
    if (source_->kind(group) != NodeKind::group) return {};
    return source_->children(group);
  }

  std::string extension_text(const std::string& node, const std::string& attribute) const override {
    if (const auto kind = source_->kind(node); kind != NodeKind::group && kind != NodeKind::dataset) return {};
    const auto value = source_->attribute(node, attribute);
    const std::string* text = value ? std::get_if<std::string>(&*value) : nullptr;
    return text != nullptr ? *text : std::string();
  }

  std::optional<std::array<std::int64_t, 3>> extension_shape(const std::string& node) const override {
    const auto stored = extension(node);
    return stored ? std::optional(stored->shape) : std::nullopt;
  }

  Tensor<float, 3> read_extension(const std::string& node, IndexRange heads, IndexRange rows) const override {
    const auto stored = extension(node);
    if (!stored) return Trace::read_extension(node, heads, rows);
    return read_stored_tensor(*source_, *stored, heads, rows);
  }

 private:
  std::optional<StoredTensor> extension(const std::string& node) const {
    if (source_->kind(node) != NodeKind::dataset) return {};
    DatasetInfo info = source_->dataset(node);
    const auto type = info.element_type();
    if (info.shape.size() != 3 || !type) return {};
    // Nobody allocates memory for a shape that the file's bytes do not back.
    if (!info.refusal.empty() || (info.filters.empty() && info.stored_bytes < info.logical_bytes())) return {};
    const std::array<std::int64_t, 3> shape = {info.shape[0], info.shape[1], info.shape[2]};
    return StoredTensor{node, *type, shape, std::move(info)};
  }

  const LayerStructure& entry(int layer) const {
    const auto found = std::find(layers_.begin(), layers_.end(), layer);
    if (found == layers_.end())
      throw Error(path(), "has no layer " + std::to_string(layer), "`kvreplay inspect` lists the layers that were captured");
    return structure_.layers[static_cast<std::size_t>(found - layers_.begin())];
  }

  const StoredTensor& tensor(int layer, LayerDataset which) const {
    const auto& found = entry(layer).tensors[static_cast<std::size_t>(which)];
    if (!found) throw Error(path() + ":" + layer_dataset_node(layer, which), "is not in this trace", produced_by(which));
    return *found;
  }

  std::unique_ptr<Source> source_;
  TraceStructure structure_;
  std::vector<int> layers_;
};

}  // namespace

std::unique_ptr<Trace> open_trace(const std::string& path, Trust trust) { return std::make_unique<FileTrace>(path, trust); }

}  // namespace kvreplay
