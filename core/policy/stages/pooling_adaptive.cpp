// ReST-KV's adaptive window (its released code, "adaptive" pooling). For every window query, the positions of the B largest
// attention weights; their mean over the older half of the window minus the mean over the newer half is the drift t. The
// kernel grows and its centre moves with |t| / scale.
#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

class AdaptivePooling final : public Pooling {
 public:
  AdaptivePooling(AdaptivePoolingSettings settings, Grouping grouping) : settings_(settings), grouping_(grouping) {
    if (settings_.window % 2 != 0)
      throw Error("pooling=adaptive", "needs an even window, which it cuts into an older and a newer half",
                  "use window=" + std::to_string(settings_.window + 1));
  }

  Array pool(const PoolingContext& context) const override {
    const std::vector<double> drift = drift_of_heads(context);
    std::vector<int> kernel, shift;
    for (const double t : drift) {
      kernel.push_back(std::max(settings_.kernel, 2 * static_cast<int>(std::floor(std::abs(t) / settings_.scale)) + 1));
      shift.push_back(shift_of(t));
    }
    return context.layer.backend().average_pool(context.scores, kernel, shift, Padding::replicate);
  }

 private:
  std::vector<double> drift_of_heads(const PoolingContext& context) const {
    LayerWorkspace& layer = context.layer;
    const std::string rows_key = "grouped_attention:" + std::to_string(settings_.window) + ":" + grouping_.key();
    const Array& rows = layer.shared<Array>(
        rows_key, [&] { return grouping_.apply(layer, layer.window_attention(settings_.window).weight); });
    const std::int64_t count = context.budget - settings_.window;
    const Ties ties = settings_.released ? Ties::highest : Ties::lowest;
    using Means = std::vector<std::vector<double>>;
    const auto& mean =
        layer.shared<Means>(rows_key + ":top:" + std::to_string(count) + (settings_.released ? ":highest" : ":lowest"),
                            [&] { return layer.backend().mean_top_column(rows, count, ties); });
    std::vector<double> drift;
    const auto half = static_cast<std::size_t>(settings_.window / 2);
    for (const auto& head : mean) {
      double older = 0, newer = 0;
      for (std::size_t w = 0; w < head.size(); ++w) (w < half ? older : newer) += head[w];
      drift.push_back((older - newer) / static_cast<double>(half));
    }
    return drift;
  }

  int shift_of(double t) const {
    if (!settings_.released) return static_cast<int>(std::trunc(t / settings_.scale));
    return static_cast<int>(std::floor(t / settings_.scale)) + (t > 0 ? 0 : 1);
  }

  AdaptivePoolingSettings settings_;
  Grouping grouping_;
};

}  // namespace

std::unique_ptr<Pooling> adaptive_pooling(AdaptivePoolingSettings settings, Grouping grouping) {
  return std::make_unique<AdaptivePooling>(settings, grouping);
}

}  // namespace kvreplay
