#include "core/policy/stages/stages.h"

namespace kvreplay {

Array Grouping::apply(LayerWorkspace& layer, const Array& scores) const {
  switch (granularity) {
    case Granularity::query_head: return scores;
    case Granularity::kv_head: return layer.backend().reduce_group(scores, layer.loaded().group(), reduction);
    case Granularity::layer: return layer.backend().reduce_group(scores, layer.loaded().num_query_heads, reduction);
  }
  return scores;
}

std::string Grouping::key() const {
  return std::string(granularity_name(granularity)) + "," + std::to_string(static_cast<int>(reduction));
}

}  // namespace kvreplay
