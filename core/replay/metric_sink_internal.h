// From what a backend measured to the values of metrics and their means. Internal to core/replay.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/metric/metric.h"

namespace kvreplay {

// Which decode steps count, and where the steps right after the prompt end. Indices count from 0: index s is step s + 1.
struct MeasuredSteps {
  std::int64_t count = 0;      // S
  std::int64_t early = 0;      // the first that many are the "early" regime, the others the "late" one
  std::vector<bool> measured;  // [S]: false for steps that are left out of metrics (NaN); empty: all count

  bool measures(std::int64_t step) const { return measured.empty() || measured[static_cast<std::size_t>(step)]; }
};

struct MeanOf {
  double total = 0;
  std::int64_t count = 0;
  void add(double value) {
    total += value;
    ++count;
  }
  void add(const MeanOf& other) {
    total += other.total;
    count += other.count;
  }
  double mean() const { return count > 0 ? total / static_cast<double>(count) : 0; }
};

// Sums of one metric over a whole run, kept apart by query head, region and regime: several threads add to none but their
// own head's, and totals do not depend on the order of layers' threads.
class MetricTotals {
 public:
  MetricTotals(const Metric& metric, std::int64_t query_heads);

  // regime 0: early steps, or metrics without steps; 1: the rest.
  void add(std::int64_t query_head, std::int64_t region, int regime, float value) {
    cells_[static_cast<std::size_t>((query_head * regions_ + region) * 2 + regime)].add(value);
  }
  void add_not_finite(std::int64_t count) { not_finite_ += count; }
  std::int64_t not_finite() const { return not_finite_; }

  // NAME, NAME.early and NAME.late (of metrics with steps), and the same of each region as NAME.REGION; what has no value
  // has no key: without a step, or with nothing evicted, no mean is better than a 0.
  void summarise(std::map<std::string, double>& summary) const;

 private:
  const MetricInfo* info_;
  std::int64_t regions_;
  std::vector<MeanOf> cells_;  // [heads, regions, 2]
  std::int64_t not_finite_ = 0;
};

// Fills the metric values of one layer of a batch of runs, and adds to the runs' totals.
class MetricSink final : public EvaluationSink {
 public:
  // totals: of each run, by metric.
  MetricSink(std::vector<std::vector<MetricTotals>*> totals, const std::vector<const Metric*>& metrics,
             std::int64_t query_heads, const MeasuredSteps& steps);

  void head(std::size_t run, int query_head, std::int64_t step, const HeadStep& values) override;
  void layer(std::size_t run, std::int64_t step, const LayerStep& values) override;
  // Metrics of whole sequences. evicted_at [H, T].
  void sequences(const Trace& trace, const std::vector<TextSpan>& evidence, std::size_t run,
                 TensorView<const std::int32_t, 2> evicted_at);
  // Counts NaN and infinite values of a run. NaN stands for queries that were not recorded, or steps that do not count;
  // those are no fault.
  void count_not_finite(const Trace& trace, std::size_t run);

  const std::vector<float>& values(std::size_t run, std::size_t metric) const { return values_[run][metric]; }

 private:
  std::int64_t size_of(const Metric& metric) const;
  int regime(std::int64_t step) const { return step < steps_.early ? 0 : 1; }

  std::vector<std::vector<MetricTotals>*> totals_;
  const std::vector<const Metric*>& metrics_;
  std::int64_t query_heads_;
  const MeasuredSteps& steps_;
  std::vector<std::vector<std::vector<float>>> values_;  // [run][metric][one layer's values]
};

}  // namespace kvreplay
