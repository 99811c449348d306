#include "core/metric/metric.h"

namespace kvreplay {
namespace {

class AttentionEntropyMetric final : public Metric {
 public:
  const MetricInfo& info() const override {
    static const MetricInfo info = {
        .name = "attention_entropy",
        .title = "Attention entropy",
        .unit = "nats",
        .doc = "Entropy of the full-cache attention: a property of the trace, for reading the rest.",
        .axes = {"layer", "query_head", "step"},
        .direction = Direction::neither,
        .logarithmic = false,
    };
    return info;
  }
  EvaluationRequest needs() const override {
    return {.outputs = false, .single_removals = false, .overlap = false, .regions = false, .entropy = true};
  }
  void head_step(const HeadStep& step, std::span<float> out) const override { out[0] = static_cast<float>(step.entropy); }
};

}  // namespace

const Metric& attention_entropy_metric() {
  static const AttentionEntropyMetric metric;
  return metric;
}

}  // namespace kvreplay
