#include "core/metric/metric.h"

namespace kvreplay {
namespace {

class AdditivityMetric final : public Metric {
 public:
  const MetricInfo& info() const override {
    static const MetricInfo info = {
        .name = "additivity",
        .title = "Additivity",
        .unit = "",
        .doc =
            "‖o' - o‖ over the sum of the single-removal errors of the evicted tokens: 1 where they add up, far above where "
            "copies of one fact go together, below for noise.",
        .axes = {"layer", "query_head", "step"},
        .direction = Direction::neither,
        .logarithmic = true,
        .unchanged_rows = true,
    };
    return info;
  }
  EvaluationRequest needs() const override {
    return {.outputs = true, .single_removals = true, .overlap = false, .regions = false, .entropy = false};
  }
  void head_step(const HeadStep& step, std::span<float> out) const override {
    if (step.evicted == 0) {
      out[0] = 0;
      return;
    }
    out[0] = step.single_removal_sum > 0 ? static_cast<float>(step.difference_norm / step.single_removal_sum) : 0.0F;
  }
  bool counts(const HeadStep& step) const override { return step.evicted > 0; }
};

}  // namespace

const Metric& additivity_metric() {
  static const AdditivityMetric metric;
  return metric;
}

}  // namespace kvreplay
