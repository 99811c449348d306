#include "core/metric/metric.h"

namespace kvreplay {
namespace {

class HeadOutputErrorMetric final : public Metric {
 public:
  const MetricInfo& info() const override {
    static const MetricInfo info = {
        .name = "head_output_error",
        .title = "Head output error",
        .unit = "",
        .doc = "‖o' - o‖ / ‖o‖ of each head before W_o.",
        .axes = {"layer", "query_head", "step"},
        .direction = Direction::lower_is_better,
        .logarithmic = true,
        .headline = true,
    };
    return info;
  }
  EvaluationRequest needs() const override {
    return {.outputs = true, .single_removals = false, .overlap = false, .regions = false, .entropy = false};
  }
  void head_step(const HeadStep& step, std::span<float> out) const override {
    const double relative = step.output_norm > 0 ? step.difference_norm / step.output_norm : 0;
    out[0] = step.output_norm > 0 ? static_cast<float>(relative) : step.difference_norm > 0 ? 1.0F : 0.0F;
  }
};

}  // namespace

const Metric& head_output_error_metric() {
  static const HeadOutputErrorMetric metric;
  return metric;
}

}  // namespace kvreplay
