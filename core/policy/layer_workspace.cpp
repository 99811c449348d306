#include "core/policy/layer_workspace.h"

#include <algorithm>

namespace kvreplay {

std::int64_t first_candidate(const Trace& trace, int layer) {
  const int window = trace.sliding_window(layer);
  return window > 0 ? std::max<std::int64_t>(0, trace.prompt_length() - window) : 0;
}

const AttentionRows& LayerWorkspace::window_attention(int window) {
  return shared<AttentionRows>("window_attention:" + std::to_string(window),
                               [&] { return backend_.window_attention(*loaded_, window, true); });
}

void LayerWorkspace::remark(const std::string& text) {
  if (std::find(remarks_.begin(), remarks_.end(), text) == remarks_.end()) remarks_.push_back(text);
}

const Tensor<float, 3>& LayerWorkspace::host(LayerDataset which) {
  using Stored = std::shared_ptr<const Tensor<float, 3>>;
  return *shared<Stored>("whole layer:" + std::string(layer_dataset_name(which)),
                         [&] { return std::make_shared<Tensor<float, 3>>(trace().read(layer(), which)); });
}

LayerEvictions LayerWorkspace::nothing_evicted(Granularity granularity) const {
  LayerEvictions evictions;
  evictions.evicted_at = Tensor<std::int32_t, 2>({granularity_heads(granularity, model()), tokens()}, -1);
  return evictions;
}

}  // namespace kvreplay
