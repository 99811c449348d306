#include "core/policy/stages/per_step.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace kvreplay {

RetainedSet RetainedSet::range(std::int64_t begin, std::int64_t end) {
  RetainedSet set;
  set.positions.resize(static_cast<std::size_t>(end - begin));
  std::iota(set.positions.begin(), set.positions.end(), static_cast<std::int32_t>(begin));
  return set;
}

RetainedSet RetainedSet::visible(const LayerWorkspace& layer, std::int64_t step) {
  const std::int64_t position = layer.prompt() + step - 1;
  return range(layer.loaded().first_visible(position), position + 1);
}

std::vector<std::int32_t> RetainedSet::at(const std::vector<std::size_t>& slots) const {
  std::vector<std::int32_t> chosen;
  for (const std::size_t slot : slots) chosen.push_back(positions[slot]);
  return chosen;
}

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
        throw layer.trace().missing_query(layer.prompt() + s, "a policy that evicts at each decode step");
    return Logits(logits);
  });
}

const Array& causal_column_sums(LayerWorkspace& layer) {
  return layer.shared<Array>("column_sums",
                             [&] { return layer.backend().column_sums(layer.loaded(), ColumnMask::causal, 0); });
}

std::vector<double> group_attention(LayerWorkspace& layer, std::int64_t head, std::int64_t heads, Reduction reduction,
                                    const RetainedSet& cache, std::int64_t step) {
  const std::int64_t share = layer.loaded().num_query_heads / heads;
  std::vector<double> received(cache.positions.size());
  for (std::int64_t q = head * share; q < (head + 1) * share; ++q) {
    const auto& logits = shared_decode_logits(layer, static_cast<int>(q));
    const std::vector<double> attention = cache.attention(logits.data() + (step - 1) * layer.tokens());
    for (std::size_t slot = 0; slot < attention.size(); ++slot)
      received[slot] =
          reduction == Reduction::max ? std::max(received[slot], attention[slot]) : received[slot] + attention[slot];
  }
  if (reduction == Reduction::mean)
    for (double& r : received) r *= 1.0 / static_cast<double>(share);
  return received;
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
