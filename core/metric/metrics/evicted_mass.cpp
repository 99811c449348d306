#include "core/metric/metric.h"

namespace kvreplay {
namespace {

class EvictedMassMetric final : public Metric {
 public:
  const MetricInfo& info() const override {
    static const MetricInfo info = {
        .name = "evicted_mass",
        .title = "Evicted attention mass",
        .unit = "",
        .doc = "Attention mass of the evicted tokens, 1 - m, summed over them.",
        .axes = {"layer", "query_head", "step"},
        .direction = Direction::lower_is_better,
        .logarithmic = true,
        .headline = true,
    };
    return info;
  }
  void head_step(const HeadStep& step, std::span<float> out) const override {
    out[0] = static_cast<float>(step.evicted_mass);
  }
};

}  // namespace

const Metric& evicted_mass_metric() {
  static const EvictedMassMetric metric;
  return metric;
}

}  // namespace kvreplay
