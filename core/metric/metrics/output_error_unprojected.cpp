#include "core/metric/metric.h"

namespace kvreplay {
namespace {

class OutputErrorUnprojectedMetric final : public Metric {
 public:
  const MetricInfo& info() const override {
    static const MetricInfo info = {
        .name = "output_error_unprojected",
        .title = "Layer output error, heads concatenated",
        .unit = "",
        .doc = "The relative error of the concatenated heads, for traces without W_o.",
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
      if (trace.has(layer, LayerDataset::output_projection))
        return "output_error stands in its place where the trace has an output_projection";
    return {};
  }
  float layer_step(const LayerStep& step) const override {
    if (step.output_norm > 0) return static_cast<float>(step.difference_norm / step.output_norm);
    return step.difference_norm > 0 ? 1.0F : 0.0F;
  }
};

}  // namespace

const Metric& output_error_unprojected_metric() {
  static const OutputErrorUnprojectedMetric metric;
  return metric;
}

}  // namespace kvreplay
