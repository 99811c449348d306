#include "core/trace/trace.h"

#include <algorithm>

#include "core/base/error.h"

namespace kvreplay {

std::string layer_name(int layer) {
  std::string digits = std::to_string(layer);
  return digits.insert(0, digits.size() < 3 ? 3 - digits.size() : 0, '0');
}

std::string_view layer_dataset_name(LayerDataset which) {
  switch (which) {
    case LayerDataset::key: return "key";
    case LayerDataset::value: return "value";
    case LayerDataset::query: return "query";
    case LayerDataset::output_projection: return "output_projection";
    case LayerDataset::output_gram: return "output_gram";
    case LayerDataset::attention: return "attention";
    case LayerDataset::log_sum_exp: return "log_sum_exp";
    case LayerDataset::attention_column_sum: return "attention_column_sum";
    case LayerDataset::head_output: return "head_output";
  }
  return "unknown";
}

bool Trace::has_query(std::int64_t position) const {
  const auto& recorded = query_positions();
  return std::binary_search(recorded.begin(), recorded.end(), static_cast<std::int32_t>(position));
}

Error Trace::missing_query(std::int64_t position, const std::string& purpose) const {
  return {path() + ":/queries/positions",
          "the query of position " + std::to_string(position) + " was not recorded, which " + purpose + " needs",
          position < prompt_length() ? "capture with --queries all, or a larger --queries window:W"
                                     : "capture with --queries all or window:W, which record every generated token"};
}

Tensor<float, 3> Trace::read_extension(const std::string& node, IndexRange, IndexRange) const {
  throw Error(path() + ":" + node, "is not in this trace");
}

void Trace::read_stored(int layer, LayerDataset which, void* out, IndexRange heads, IndexRange rows) const {
  const Tensor<float, 3> values = read(layer, which, heads, rows);
  from_float32(type(layer, which), values.data(), out, static_cast<std::size_t>(values.size()));
}

std::int64_t Trace::layer_bytes(int layer) const {
  std::int64_t bytes = 0;
  for (const auto which : {LayerDataset::key, LayerDataset::value, LayerDataset::query}) {
    if (!has(layer, which)) continue;
    const auto s = shape(layer, which);
    bytes += s[0] * s[1] * s[2] * static_cast<std::int64_t>(element_size(type(layer, which)));
  }
  return bytes;
}

}  // namespace kvreplay
