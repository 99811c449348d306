#include <algorithm>
#include <cmath>

#include "core/policy/stages/stages.h"

namespace kvreplay {

std::vector<double> temporal_weights(const std::string& temporal, double alpha, int window) {
  const auto w = static_cast<std::size_t>(window);
  std::vector<double> weights(w, temporal == "mean" ? 1.0 / window : 1.0);
  if (temporal == "sum" || temporal == "mean") return weights;
  if (temporal == "last" || temporal == "none") {
    std::fill(weights.begin(), weights.end(), 0.0);
    weights.back() = 1;
    return weights;
  }
  // c_0 = x_0, c_w = alpha x_w + (1 - alpha) c_{w-1}: the first element is the seed, so it has no factor alpha.
  for (std::size_t i = 0; i < w; ++i)
    weights[i] = (i == 0 ? 1.0 : alpha) * std::pow(1 - alpha, static_cast<double>(w - 1 - i));
  if (temporal == "inv-ema") std::reverse(weights.begin(), weights.end());
  return weights;
}

}  // namespace kvreplay
