#include "core/metric/metric.h"

namespace kvreplay {
namespace {

class OracleOverlapMetric final : public Metric {
 public:
  const MetricInfo& info() const override {
    static const MetricInfo info = {
        .name = "oracle_overlap",
        .title = "Overlap with the best tokens",
        .unit = "",
        .doc = "Of the |K| tokens with the largest attention at this step, the share that is in the kept set K.",
        .axes = {"layer", "query_head", "step"},
        .direction = Direction::higher_is_better,
        .logarithmic = false,
        .headline = true,
    };
    return info;
  }
  EvaluationRequest needs() const override {
    return {.outputs = false, .single_removals = false, .overlap = true, .regions = false, .entropy = false};
  }
  void head_step(const HeadStep& step, std::span<float> out) const override {
    out[0] = static_cast<float>(step.oracle_overlap);
  }
};

}  // namespace

const Metric& oracle_overlap_metric() {
  static const OracleOverlapMetric metric;
  return metric;
}

}  // namespace kvreplay
