#include <algorithm>

#include "core/policy/stages/kvpress.h"

namespace kvreplay {
namespace {

class SinksAndRecentIndicator final : public Indicator {
 public:
  explicit SinksAndRecentIndicator(int sinks) : sinks_(sinks) {}

  std::string key(std::int64_t budget) const override {
    return "sinks_and_recent:" + std::to_string(sinks_) + ":" + std::to_string(budget);
  }

  // The zeros lie behind the sinks and are as many as have to go. A budget below the sinks leaves more ones than it
  // keeps, and the lowest of them win.
  Array score(LayerWorkspace& layer, std::int64_t budget) const override {
    const std::int64_t heads = layer.loaded().num_kv_heads, n = layer.candidates();
    const std::int64_t begin = std::min<std::int64_t>(sinks_, n),
                       end = std::min(begin + std::max<std::int64_t>(0, n - budget), n);
    std::vector<float> scores(static_cast<std::size_t>(heads * n), 1.0F);
    for (std::int64_t h = 0; h < heads; ++h) std::fill(scores.begin() + h * n + begin, scores.begin() + h * n + end, 0.0F);
    return layer.backend().upload({heads, n}, scores);
  }

 private:
  int sinks_;
};

}  // namespace

std::unique_ptr<Indicator> sinks_and_recent_indicator(int sinks) { return std::make_unique<SinksAndRecentIndicator>(sinks); }

}  // namespace kvreplay
