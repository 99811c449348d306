#include "core/metric/metric.h"

namespace kvreplay {
namespace {

class RedistributionKlMetric final : public Metric {
 public:
  const MetricInfo& info() const override {
    static const MetricInfo info = {
        .name = "redistribution_kl",
        .title = "Redistribution",
        .unit = "nats",
        .doc = "KL(a' ‖ a) = -ln m between attention after and before eviction, as the difference of the two log-sum-exps.",
        .axes = {"layer", "query_head", "step"},
        .direction = Direction::lower_is_better,
        .logarithmic = true,
    };
    return info;
  }
  void head_step(const HeadStep& step, std::span<float> out) const override {
    out[0] = static_cast<float>(step.redistribution_kl);
  }
};

}  // namespace

const Metric& redistribution_kl_metric() {
  static const RedistributionKlMetric metric;
  return metric;
}

}  // namespace kvreplay
