#include "core/metric/metric.h"

namespace kvreplay {
namespace {

class RegionMassBeforeMetric final : public Metric {
 public:
  const MetricInfo& info() const override {
    static const MetricInfo info = {
        .name = "region_mass_before",
        .title = "Attention by region, full cache",
        .unit = "",
        .doc = "Attention mass of each region of the text with the full cache.",
        .axes = {"layer", "query_head", "step", "region"},
        .direction = Direction::neither,
        .logarithmic = false,
    };
    return info;
  }
  EvaluationRequest needs() const override {
    return {.outputs = false, .single_removals = false, .overlap = false, .regions = true, .entropy = false};
  }
  void head_step(const HeadStep& step, std::span<float> out) const override {
    for (std::size_t r = 0; r < out.size(); ++r) out[r] = static_cast<float>(step.mass_before[r]);
  }
};

}  // namespace

const Metric& region_mass_before_metric() {
  static const RegionMassBeforeMetric metric;
  return metric;
}

}  // namespace kvreplay
