#include "core/metric/metric.h"

namespace kvreplay {
namespace {

class ValueDisplacementMetric final : public Metric {
 public:
  const MetricInfo& info() const override {
    static const MetricInfo info = {
        .name = "value_displacement",
        .title = "Value displacement",
        .unit = "",
        .doc =
            "‖o' - o_E‖: how far apart what is kept and what is evicted lie; the other factor of o' - o = (1 - m)(o' - "
            "o_E).",
        .axes = {"layer", "query_head", "step"},
        .direction = Direction::lower_is_better,
        .logarithmic = true,
        .unchanged_rows = true,
    };
    return info;
  }
  EvaluationRequest needs() const override {
    return {.outputs = true, .single_removals = false, .overlap = false, .regions = false, .entropy = false};
  }
  void head_step(const HeadStep& step, std::span<float> out) const override {
    out[0] = static_cast<float>(step.displacement);
  }
  bool counts(const HeadStep& step) const override { return step.evicted > 0; }
};

}  // namespace

const Metric& value_displacement_metric() {
  static const ValueDisplacementMetric metric;
  return metric;
}

}  // namespace kvreplay
