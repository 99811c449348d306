#include "core/policy/layer_workspace.h"

namespace kvreplay {

const AttentionRows& LayerWorkspace::window_attention(int window) {
  return shared<AttentionRows>("window_attention:" + std::to_string(window),
                               [&] { return backend_.window_attention(*loaded_, window, true); });
}

LayerEvictions LayerWorkspace::nothing_evicted(Granularity granularity) const {
  LayerEvictions evictions;
  evictions.evicted_at = Tensor<std::int32_t, 2>({granularity_heads(granularity, model()), tokens()}, -1);
  return evictions;
}

}  // namespace kvreplay
