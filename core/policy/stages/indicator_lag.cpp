#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/parallel.h"
#include "core/policy/stages/host_tensors.h"
#include "core/policy/stages/indicators_without_queries.h"

namespace kvreplay {
namespace {

// Its rank among the scores of the block, 0 the lowest, as a share of the block; NaN above all, equal ones by position.
void rank_block(std::span<double> scores) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::isnan(scores[b]) ? !std::isnan(scores[a]) : scores[a] < scores[b];
  });
  for (std::size_t rank = 0; rank < order.size(); ++rank)
    scores[order[rank]] = static_cast<double>(rank) / static_cast<double>(scores.size());
}

class LagIndicator final : public Indicator {
 public:
  explicit LagIndicator(LagSettings settings) : settings_(settings) {}

  std::string key(std::int64_t) const override {
    return "lag:" + std::to_string(settings_.sinks) + "," + std::to_string(settings_.lag) +
           (settings_.cross_scoring ? ",cross" : "");
  }

  Array score(LayerWorkspace& layer, std::int64_t) const override {
    const std::int64_t heads = layer.loaded().num_kv_heads, n = layer.candidates();
    Tensor<double, 2> scores({heads, n}, 1.0);
    if (n < settings_.sinks + 2 * std::int64_t{settings_.lag}) {
      // Too short to compare: the most recent ones stay.
      for (std::int64_t h = 0; h < heads; ++h)
        for (std::int64_t i = settings_.sinks; i < n; ++i)
          scores(h, i) = static_cast<double>(i - settings_.sinks) / static_cast<double>(n - settings_.sinks);
      return upload_scores(layer, scores);
    }
    const Tensor<float, 3>&keys = candidate_keys(layer), &values = candidate_values(layer);
    parallel_for(heads, 1, [&](std::int64_t h, std::int64_t) {
      score_head(keys.view()[h], values.view()[h], scores.view()[h].flat());
    });
    warn_of_constant_channels(layer, keys, values);
    return upload_scores(layer, scores);
  }

 private:
  std::int64_t last_block(std::int64_t n) const {
    return settings_.sinks + ((n - settings_.sinks) / settings_.lag - 1) * settings_.lag;
  }

  void score_head(TensorView<const float, 2> keys, TensorView<const float, 2> values, std::span<double> scores) const {
    const std::int64_t n = keys.dim(0);
    for (std::int64_t begin = settings_.sinks; begin < last_block(n); begin += settings_.lag) {
      const auto block = scores.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(settings_.lag));
      std::fill(block.begin(), block.end(), 0.0);
      add_lag_scores(keys, begin, settings_.lag, 0.5, block);
      add_lag_scores(values, begin, settings_.lag, 0.5, block);
      if (!settings_.cross_scoring) rank_block(block);
    }
  }

  void warn_of_constant_channels(LayerWorkspace& layer, const Tensor<float, 3>& keys, const Tensor<float, 3>& values) const {
    for (const auto& [name, heads] : {std::pair{"key", &keys}, std::pair{"value", &values}})
      for (std::int64_t h = 0; h < heads->dim(0); ++h)
        for (std::int64_t begin = settings_.sinks; begin < last_block(heads->dim(1)); begin += settings_.lag)
          if (const std::int64_t channel = constant_channel(heads->view()[h], begin + settings_.lag); channel >= 0) {
            layer.remark("layer " + std::to_string(layer.layer()) + ": channel " + std::to_string(channel) + " of " + name +
                         " head " + std::to_string(h) + " is constant in " + std::to_string(settings_.lag) +
                         " tokens, so that lag scores there are NaN and rank first, as in the published code");
            return;
          }
  }

  // The first channel that is the same in the lag rows from `begin` on, or -1.
  std::int64_t constant_channel(TensorView<const float, 2> rows, std::int64_t begin) const {
    for (std::int64_t c = 0; c < rows.dim(1); ++c) {
      std::int64_t i = begin + 1;
      while (i < begin + settings_.lag && rows(i, c) == rows(begin, c)) ++i;
      if (i == begin + settings_.lag) return c;
    }
    return -1;
  }

  LagSettings settings_;
};

}  // namespace

void add_lag_scores(TensorView<const float, 2> rows, std::int64_t begin, std::int64_t lag, double weight,
                    std::span<double> scores) {
  const auto channels = static_cast<std::size_t>(rows.dim(1));
  std::vector<double> low(channels), range(channels), spread;
  for (std::size_t c = 0; c < channels; ++c) {
    const auto channel = static_cast<std::int64_t>(c);
    double high = low[c] = rows(begin + lag, channel);
    for (std::int64_t i = begin + lag; i < begin + 2 * lag; ++i) {
      low[c] = std::min<double>(low[c], rows(i, channel));
      high = std::max<double>(high, rows(i, channel));
    }
    range[c] = high - low[c];
  }
  for (std::int64_t i = begin; i < begin + lag; ++i) {
    double mean = 0, squared = 0;
    std::vector<double> scaled(channels);
    for (std::size_t c = 0; c < channels; ++c)
      mean += scaled[c] = (rows(i, static_cast<std::int64_t>(c)) - low[c]) / range[c];
    mean /= static_cast<double>(channels);
    for (const double z : scaled) squared += (z - mean) * (z - mean);
    spread.push_back(std::sqrt(squared / static_cast<double>(channels - 1)));
  }
  // std::max would pass over a NaN; the published softmax does not.
  double top = spread.front(), total = 0;
  for (const double s : spread) top = s > top || std::isnan(s) ? s : top;
  for (double& s : spread) total += s = std::exp(s - top);
  for (std::size_t i = 0; i < spread.size(); ++i) scores[i] += weight * spread[i] / total;
}

std::unique_ptr<Indicator> lag_indicator(LagSettings settings) { return std::make_unique<LagIndicator>(settings); }

}  // namespace kvreplay
