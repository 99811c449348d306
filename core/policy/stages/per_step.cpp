#include "core/policy/stages/per_step.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/base/error.h"

namespace kvreplay {

std::vector<double> RetainedSet::attention(const float* logits) const {
  double top = -std::numeric_limits<double>::infinity();
  for (const auto position : positions) top = std::max<double>(top, logits[position]);
  std::vector<double> weight(positions.size());
  double total = 0;
  for (std::size_t slot = 0; slot < positions.size(); ++slot)
    total += weight[slot] = std::exp(logits[positions[slot]] - top);
  for (double& w : weight) w /= total;
  return weight;
}

const Tensor<float, 2>& shared_decode_logits(LayerWorkspace& layer, int query_head) {
  using Logits = std::shared_ptr<const Tensor<float, 2>>;
  return *layer.shared<Logits>("decode_logits:" + std::to_string(query_head), [&] {
    auto logits = std::make_shared<Tensor<float, 2>>(layer.backend().decode_logits(layer.loaded(), query_head));
    for (std::int64_t s = 0; s < logits->dim(0); ++s)
      if (std::isnan((*logits)(s, layer.prompt() + s)))
        throw Error(layer.trace().path() + ":/queries/positions",
                    "the query of position " + std::to_string(layer.prompt() + s) +
                        " was not recorded, which a policy that evicts at each decode step needs",
                    "capture with --queries all or window:W, which record every generated token");
    return Logits(logits);
  });
}

std::vector<std::size_t> top_slots(const std::vector<double>& score, std::size_t end, std::size_t count) {
  std::vector<std::size_t> order(end);
  std::iota(order.begin(), order.end(), std::size_t{0});
  count = std::min(count, end);
  const auto better = [&](std::size_t a, std::size_t b) { return score[a] != score[b] ? score[a] > score[b] : a < b; };
  if (count < end) std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), better);
  order.resize(count);
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace kvreplay
