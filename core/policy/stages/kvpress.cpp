#include "core/policy/stages/kvpress.h"

#include <algorithm>
#include <cmath>

namespace kvreplay {

double kvpress_ratio(std::int64_t length, std::int64_t budget) {
  if (budget >= length) return 0;
  const auto total = static_cast<double>(length);
  double ratio = 1 - static_cast<double>(budget) / total;
  while (truncated(total * (1 - ratio)) < budget) ratio = std::nextafter(ratio, 0.0);
  return ratio;
}

Array with_forced_ends(LayerWorkspace& layer, const Array& scores, std::int64_t before, std::int64_t after, float above) {
  const std::vector<float> inner = layer.backend().download(scores);
  const std::int64_t heads = scores.dim(0), columns = scores.dim(1), total = before + columns + after;
  const float forced = (inner.empty() ? 0 : *std::max_element(inner.begin(), inner.end())) + above;
  std::vector<float> all(static_cast<std::size_t>(heads * total), forced);
  for (std::int64_t h = 0; h < heads; ++h)
    std::copy_n(inner.begin() + h * columns, columns, all.begin() + h * total + before);
  return layer.backend().upload({heads, total}, all);
}

}  // namespace kvreplay
