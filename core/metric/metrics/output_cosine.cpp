#include "core/metric/metric.h"

namespace kvreplay {
namespace {

class OutputCosineMetric final : public Metric {
 public:
  const MetricInfo& info() const override {
    static const MetricInfo info = {
        .name = "output_cosine",
        .title = "Layer output cosine",
        .unit = "",
        .doc = "Cosine between Σ W_h o' and Σ W_h o.",
        .axes = {"layer", "step"},
        .direction = Direction::higher_is_better,
        .logarithmic = false,
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
    if (step.evicted == 0) return 1.0F;
    const double norms = step.output_norm * step.kept_output_norm;
    return norms > 0 ? static_cast<float>(step.inner_product / norms) : 0.0F;
  }
};

}  // namespace

const Metric& output_cosine_metric() {
  static const OutputCosineMetric metric;
  return metric;
}

}  // namespace kvreplay
