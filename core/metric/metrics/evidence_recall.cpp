#include "core/metric/metric.h"

namespace kvreplay {
namespace {

class EvidenceRecallMetric final : public Metric {
 public:
  const MetricInfo& info() const override {
    static const MetricInfo info = {
        .name = "evidence_recall",
        .title = "Evidence recall",
        .unit = "",
        .doc =
            "Of the tokens in the marked spans asked for (a needle, an answer's evidence), the share that is never evicted.",
        .axes = {"layer", "query_head"},
        .direction = Direction::higher_is_better,
        .logarithmic = false,
        .headline = true,
    };
    return info;
  }
  std::string missing(const Trace&, const std::vector<TextSpan>& evidence) const override {
    return evidence.empty()
               ? "the trace has no marked span of that label (capture with --spans, replay with --evidence LABEL)"
               : "";
  }
  float head_sequence(const HeadSequence& head) const override {
    std::int64_t kept = 0, total = 0;
    for (const TextSpan& span : head.evidence)
      for (int position = span.start; position < span.end; ++position) {
        ++total;
        if (head.evicted_at[static_cast<std::size_t>(position)] == -1) ++kept;
      }
    return total > 0 ? static_cast<float>(kept) / static_cast<float>(total) : 0.0F;
  }
};

}  // namespace

const Metric& evidence_recall_metric() {
  static const EvidenceRecallMetric metric;
  return metric;
}

}  // namespace kvreplay
