// Metrics as declared data plus a small function of what a backend measured (core/backend/evaluation.h). The definitions
// are those of data/metrics.md.
//
// A new metric is one file in core/metric/metrics/ that defines `const Metric& NAME_metric()` and one line in
// core/metric/metrics.def. Reports know nothing of particular metrics: they read MetricInfo.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/backend/evaluation.h"
#include "core/trace/trace.h"

namespace kvreplay {

enum class Direction : std::uint8_t { lower_is_better, higher_is_better, neither };

struct MetricInfo {
  std::string name;               // "evicted_mass"
  std::string title;              // "Evicted attention mass", for axes and headings
  std::string unit;               // "", "nats", ...
  std::string doc;                // the definition in one or two sentences
  std::vector<std::string> axes;  // of {"layer", "query_head", "step", "region"}, in order
  Direction direction = Direction::lower_is_better;
  bool logarithmic = false;     // spans decades: plot on a log axis
  bool headline = false;        // has columns in the short tables of reports
  bool unchanged_rows = false;  // follows from keys and values as recorded: absent where a policy merges or turns them
};

// What a metric of whole sequences sees: one layer and query head.
struct HeadSequence {
  const Trace& trace;
  std::span<const std::int32_t> evicted_at;  // [T]
  const std::vector<TextSpan>& evidence;     // the marked spans asked for
};

class Metric {
 public:
  virtual ~Metric() = default;
  virtual const MetricInfo& info() const = 0;
  virtual EvaluationRequest needs() const { return {false, false, false, false, false}; }
  // Empty: the trace has what the metric needs. Else what is missing, for an error or to leave the metric out.
  virtual std::string missing(const Trace&, const std::vector<TextSpan>& /*evidence*/) const { return {}; }

  // One of the three is overridden, by axes: ..., query_head, step[, region]; layer, step; layer, query_head.
  // out: one value, or one for each region.
  virtual void head_step(const HeadStep&, std::span<float> /*out*/) const {}
  virtual float layer_step(const LayerStep&) const { return 0; }
  virtual float head_sequence(const HeadSequence&) const { return 0; }

  // False: the value is left out of the mean (nothing was evicted, so there is nothing to average).
  virtual bool counts(const HeadStep&) const { return true; }
};

const std::vector<const Metric*>& metric_registry();
// Throws Error with the closest name.
const Metric& find_metric(const std::string& name);

}  // namespace kvreplay
