#include "core/replay/metric_sink_internal.h"

#include <algorithm>
#include <array>
#include <limits>

namespace kvreplay {
namespace {

MetricTable::Kind kind_of(const MetricInfo& info) {
  if (info.axes.size() >= 3) return MetricTable::Kind::head_step;
  return info.axes.back() == "step" ? MetricTable::Kind::layer_step : MetricTable::Kind::head_sequence;
}

}  // namespace

MetricTable::MetricTable(const std::vector<const Metric*>& metrics, std::int64_t query_heads, std::int64_t steps)
    : query_heads_(query_heads) {
  for (const Metric* metric : metrics) {
    Row row;
    row.metric = metric;
    row.kind = kind_of(metric->info());
    row.regions = metric->info().axes.back() == "region" ? num_regions : 1;
    row.first_sum = sums_of_head_;
    row.first_value = values_;
    row.values = (row.kind == Kind::layer_step ? 1 : query_heads) * (row.has_steps() ? steps : 1) * row.regions;
    sums_of_head_ += row.regions * 2;
    values_ += row.values;
    rows_.push_back(row);
  }
}

void MetricTotals::summarise(std::size_t row, std::map<std::string, double>& summary) const {
  const auto& at = table_->rows()[row];
  const std::string& name = at.metric->info().name;
  std::array<MeanOf, 2> all;
  std::array<std::array<MeanOf, 2>, num_regions> by_region;
  for (std::int64_t h = 0; h < table_->query_heads(); ++h)
    for (std::int64_t cell = 0; cell < at.regions * 2; ++cell) {
      const auto region = static_cast<std::size_t>(cell / 2), regime = static_cast<std::size_t>(cell % 2);
      const MeanOf& mean = sum(h, at.first_sum + cell).mean;
      all[regime].add(mean);
      by_region[region][regime].add(mean);
    }
  const auto write = [&](const std::string& key, const std::array<MeanOf, 2>& regimes) {
    MeanOf both = regimes[0];
    both.add(regimes[1]);
    if (both.count > 0) summary[key] = both.mean();
    if (at.has_steps() && regimes[0].count > 0) summary[key + ".early"] = regimes[0].mean();
    if (at.has_steps() && regimes[1].count > 0) summary[key + ".late"] = regimes[1].mean();
  };
  write(name, all);
  if (at.regions == 1) return;
  for (std::size_t r = 0; r < by_region.size(); ++r) write(name + "." + region_names[r], by_region[r]);
}

std::int64_t MetricTotals::not_finite(std::size_t row) const {
  const auto& at = table_->rows()[row];
  std::int64_t count = 0;
  for (std::int64_t h = 0; h < table_->query_heads(); ++h)
    for (std::int64_t cell = 0; cell < at.regions * 2; ++cell) count += sum(h, at.first_sum + cell).not_finite;
  return count;
}

MetricSink::MetricSink(const MetricTable& table, const MeasuredSteps& steps, std::size_t runs, bool keeps_values)
    : table_(table),
      steps_(steps),
      keeps_values_(keeps_values),
      sums_(runs * static_cast<std::size_t>(table.sums())),
      values_(keeps_values ? runs * static_cast<std::size_t>(table.values()) : 0, std::numeric_limits<float>::quiet_NaN()) {}

bool MetricSink::has_sequences() const {
  return std::any_of(table_.rows().begin(), table_.rows().end(),
                     [](const auto& row) { return row.kind == MetricTable::Kind::head_sequence; });
}

void MetricSink::keep(std::size_t run, std::int64_t value_index, std::span<const float> values) {
  if (!keeps_values_) return;
  std::copy(values.begin(), values.end(),
            values_.begin() + static_cast<std::ptrdiff_t>(run) * table_.values() + value_index);
}

void MetricSink::head(std::size_t run, int query_head, std::int64_t step, const HeadStep& values) {
  if (!values.recorded || !steps_.measures(step)) return;
  std::array<float, num_regions> out{};
  LayerSum* sums = sums_of_head(run, query_head);
  for (const auto& row : table_.rows()) {
    if (row.kind != MetricTable::Kind::head_step) continue;
    const std::span<float> cell(out.data(), static_cast<std::size_t>(row.regions));
    row.metric->head_step(values, cell);
    keep(run, row.first_value + (query_head * steps_.count + step) * row.regions, cell);
    const bool counts = row.metric->counts(values);
    for (std::int64_t r = 0; r < row.regions; ++r)
      sums[row.first_sum + r * 2 + regime(step)].add(out[static_cast<std::size_t>(r)], counts);
  }
}

void MetricSink::layer(std::size_t run, std::int64_t step, const LayerStep& values) {
  if (!values.recorded || !steps_.measures(step)) return;
  for (const auto& row : table_.rows()) {
    if (row.kind != MetricTable::Kind::layer_step) continue;
    const float value = row.metric->layer_step(values);
    keep(run, row.first_value + step, {&value, 1});
    sums_of_head(run, 0)[row.first_sum + regime(step)].add(value, true);
  }
}

void MetricSink::sequence(const Trace& trace, const std::vector<TextSpan>& evidence, std::size_t run,
                          std::int64_t query_head, std::span<const std::int32_t> evicted_at) {
  for (const auto& row : table_.rows()) {
    if (row.kind != MetricTable::Kind::head_sequence) continue;
    const float value = row.metric->head_sequence({trace, evicted_at, evidence});
    keep(run, row.first_value + query_head, {&value, 1});
    sums_of_head(run, query_head)[row.first_sum].add(value, true);
  }
}

}  // namespace kvreplay
