#include "core/metric/metric.h"

namespace kvreplay {
namespace {

class OutputErrorMetric final : public Metric {
 public:
  const MetricInfo& info() const override {
    static const MetricInfo info = {
        .name = "output_error",
        .title = "Layer output error",
        .unit = "",
        .doc = "‖Σ W_h (o' - o)‖ / ‖Σ W_h o‖: the relative reconstruction error of the layer's attention output.",
        .axes = {"layer", "step"},
        .direction = Direction::lower_is_better,
        .logarithmic = true,
        .headline = true,
    };
    return info;
  }
  EvaluationRequest needs() const override {
    return {.outputs = true, .single_removals = false, .overlap = false, .regions = false, .entropy = false};
  }
  std::string missing(const Trace& trace, const std::vector<TextSpan>&) const override {
    for (const int layer : trace.layers())
      if (!trace.has(layer, LayerDataset::output_projection)) return "the trace has no /layers/NNN/output_projection";
    return {};
  }
  float layer_step(const LayerStep& step) const override {
    if (step.output_norm > 0) return static_cast<float>(step.difference_norm / step.output_norm);
    return step.difference_norm > 0 ? 1.0F : 0.0F;
  }
};

}  // namespace

const Metric& output_error_metric() {
  static const OutputErrorMetric metric;
  return metric;
}

}  // namespace kvreplay
