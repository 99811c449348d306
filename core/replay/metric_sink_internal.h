// From what a backend measured to the values of metrics and their means. Internal to core/replay.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <span>
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

// Where the metrics of a replay have their sums and, within one layer, their values: the same for every run.
class MetricTable {
 public:
  // What a metric is given: one query head at one step, one layer at one step, one head's whole sequence.
  enum class Kind : std::uint8_t { head_step, layer_step, head_sequence };
  struct Row {
    const Metric* metric = nullptr;
    Kind kind = Kind::head_step;
    std::int64_t regions = 1;                  // values of one cell
    std::int64_t first_sum = 0;                // of [regions, 2], by region and regime, among the sums of a query head
    std::int64_t first_value = 0, values = 0;  // of one layer, as in a results file
    bool has_steps() const { return kind != Kind::head_sequence; }
  };

  MetricTable(const std::vector<const Metric*>& metrics, std::int64_t query_heads, std::int64_t steps);

  const std::vector<Row>& rows() const { return rows_; }
  std::int64_t query_heads() const { return query_heads_; }
  std::int64_t sums_of_head() const { return sums_of_head_; }  // of all metrics; those of layers are with head 0
  std::int64_t sums() const { return query_heads_ * sums_of_head_; }
  std::int64_t values() const { return values_; }

 private:
  std::vector<Row> rows_;
  std::int64_t query_heads_, sums_of_head_ = 0, values_ = 0;
};

// One sum of one metric in one layer. Several threads add to none but their own head's.
struct LayerSum {
  double total = 0;
  std::int32_t count = 0;
  std::int32_t not_finite = 0;  // NaN or infinite where a value was measured

  void add(float value, bool counts) {
    total += counts ? static_cast<double>(value) : 0;
    count += counts ? 1 : 0;
    not_finite += std::isfinite(value) ? 0 : 1;
  }
};

// The same over the layers.
struct MetricSum {
  MeanOf mean;
  std::int64_t not_finite = 0;

  void add(const LayerSum& layer) {
    mean.total += layer.total;
    mean.count += layer.count;
    not_finite += layer.not_finite;
  }
};

// Sums of all metrics over a whole run. Layers are added in the order of the trace, so that the means do not depend on how
// many threads or backends measured them.
class MetricTotals {
 public:
  explicit MetricTotals(const MetricTable& table) : table_(&table), sums_(static_cast<std::size_t>(table.sums())) {}

  void add_layer(std::span<const LayerSum> layer) {
    for (std::size_t i = 0; i < sums_.size(); ++i) sums_[i].add(layer[i]);
  }
  // NAME, NAME.early and NAME.late (of metrics with steps), and the same of each region as NAME.REGION; what has no value
  // has no key: without a step, or with nothing evicted, no mean is better than a 0.
  void summarise(std::size_t row, std::map<std::string, double>& summary) const;
  std::int64_t not_finite(std::size_t row) const;

 private:
  const MetricSum& sum(std::int64_t query_head, std::int64_t index) const {
    return sums_[static_cast<std::size_t>(query_head * table_->sums_of_head() + index)];
  }

  const MetricTable* table_;
  std::vector<MetricSum> sums_;
};

// Forms the metrics of one layer of a batch of runs.
class MetricSink final : public EvaluationSink {
 public:
  // keeps_values: values() is wanted, not the sums alone.
  MetricSink(const MetricTable& table, const MeasuredSteps& steps, std::size_t runs, bool keeps_values);

  void head(std::size_t run, int query_head, std::int64_t step, const HeadStep& values) override;
  void layer(std::size_t run, std::int64_t step, const LayerStep& values) override;
  // Metrics of whole sequences, of one stored head.
  void sequence(const Trace& trace, const std::vector<TextSpan>& evidence, std::size_t run, std::int64_t query_head,
                std::span<const std::int32_t> evicted_at);
  bool has_sequences() const;

  // One layer's values of one metric; NaN stands for queries that were not recorded, or steps that do not count.
  std::span<const float> values(std::size_t run, std::size_t row) const {
    const auto& at = table_.rows()[row];
    return of_run(values_, run, table_.values())
        .subspan(static_cast<std::size_t>(at.first_value), static_cast<std::size_t>(at.values));
  }
  // The sums of another sink, whose values these are the same of or more.
  void take_sums(const MetricSink& other) { sums_ = other.sums_; }
  std::span<const LayerSum> sums(std::size_t run) const { return of_run(sums_, run, table_.sums()); }

 private:
  template <class Value>
  static std::span<const Value> of_run(const std::vector<Value>& all, std::size_t run, std::int64_t size) {
    const auto n = static_cast<std::size_t>(size);
    return std::span(all).subspan(run * n, n);
  }
  LayerSum* sums_of_head(std::size_t run, std::int64_t query_head) {
    return sums_.data() + static_cast<std::int64_t>(run) * table_.sums() + query_head * table_.sums_of_head();
  }
  void keep(std::size_t run, std::int64_t value_index, std::span<const float> values);
  int regime(std::int64_t step) const { return step < steps_.early ? 0 : 1; }

  const MetricTable& table_;
  const MeasuredSteps& steps_;
  bool keeps_values_;
  std::vector<LayerSum> sums_;  // [runs, sums of the table]
  std::vector<float> values_;   // [runs, values of the table]; empty unless they are kept
};

}  // namespace kvreplay
