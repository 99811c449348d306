#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/replay/metric_sink_internal.h"

namespace kvreplay {
namespace {

bool has_axis(const MetricInfo& info, const char* axis) {
  return std::find(info.axes.begin(), info.axes.end(), axis) != info.axes.end();
}

}  // namespace

MetricTotals::MetricTotals(const Metric& metric, std::int64_t query_heads)
    : info_(&metric.info()), regions_(has_axis(*info_, "region") ? num_regions : 1) {
  const std::int64_t heads = has_axis(*info_, "query_head") ? query_heads : 1;
  cells_.resize(static_cast<std::size_t>(heads * regions_ * 2));
}

void MetricTotals::summarise(std::map<std::string, double>& summary) const {
  std::array<MeanOf, 2> all;
  std::vector<std::array<MeanOf, 2>> by_region(static_cast<std::size_t>(regions_));
  for (std::size_t cell = 0; cell < cells_.size(); ++cell) {
    all[cell % 2].add(cells_[cell]);
    by_region[cell / 2 % by_region.size()][cell % 2].add(cells_[cell]);
  }
  const bool has_steps = has_axis(*info_, "step");
  const auto write = [&](const std::string& name, const std::array<MeanOf, 2>& regimes) {
    MeanOf both = regimes[0];
    both.add(regimes[1]);
    if (both.count > 0) summary[name] = both.mean();
    if (has_steps && regimes[0].count > 0) summary[name + ".early"] = regimes[0].mean();
    if (has_steps && regimes[1].count > 0) summary[name + ".late"] = regimes[1].mean();
  };
  write(info_->name, all);
  if (regions_ == 1) return;
  for (std::size_t r = 0; r < by_region.size(); ++r) write(info_->name + "." + region_names[r], by_region[r]);
}

MetricSink::MetricSink(std::vector<std::vector<MetricTotals>*> totals, const std::vector<const Metric*>& metrics,
                       std::int64_t query_heads, const MeasuredSteps& steps)
    : totals_(std::move(totals)), metrics_(metrics), query_heads_(query_heads), steps_(steps) {
  values_.resize(totals_.size());
  for (auto& run : values_)
    for (const Metric* metric : metrics_)
      run.emplace_back(static_cast<std::size_t>(size_of(*metric)), std::numeric_limits<float>::quiet_NaN());
}

void MetricSink::head(std::size_t run, int query_head, std::int64_t step, const HeadStep& values) {
  if (!values.recorded || !steps_.measures(step)) return;
  for (std::size_t m = 0; m < metrics_.size(); ++m) {
    const Metric& metric = *metrics_[m];
    const auto& axes = metric.info().axes;
    if (axes.size() < 3) continue;
    const std::int64_t width = axes.size() == 4 ? num_regions : 1;
    const std::span<float> out(values_[run][m].data() + (query_head * steps_.count + step) * width,
                               static_cast<std::size_t>(width));
    metric.head_step(values, out);
    if (!metric.counts(values)) continue;
    for (std::int64_t r = 0; r < width; ++r)
      (*totals_[run])[m].add(query_head, r, regime(step), out[static_cast<std::size_t>(r)]);
  }
}

void MetricSink::layer(std::size_t run, std::int64_t step, const LayerStep& values) {
  if (!values.recorded || !steps_.measures(step)) return;
  for (std::size_t m = 0; m < metrics_.size(); ++m) {
    const auto& axes = metrics_[m]->info().axes;
    if (axes.back() != "step" || axes.size() != 2) continue;
    const float value = metrics_[m]->layer_step(values);
    values_[run][m][static_cast<std::size_t>(step)] = value;
    (*totals_[run])[m].add(0, 0, regime(step), value);
  }
}

void MetricSink::sequences(const Trace& trace, const std::vector<TextSpan>& evidence, std::size_t run,
                           TensorView<const std::int32_t, 2> evicted_at) {
  for (std::size_t m = 0; m < metrics_.size(); ++m) {
    if (metrics_[m]->info().axes.back() != "query_head") continue;
    for (std::int64_t q = 0; q < query_heads_; ++q) {
      const float value =
          metrics_[m]->head_sequence({trace, evicted_at[q * evicted_at.dim(0) / query_heads_].flat(), evidence});
      values_[run][m][static_cast<std::size_t>(q)] = value;
      (*totals_[run])[m].add(q, 0, 0, value);
    }
  }
}

void MetricSink::count_not_finite(const Trace& trace, std::size_t run) {
  for (std::size_t m = 0; m < metrics_.size(); ++m) {
    const MetricInfo& info = metrics_[m]->info();
    const std::int64_t width = has_axis(info, "region") ? num_regions : 1;
    const std::vector<float>& values = values_[run][m];
    std::int64_t count = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isfinite(values[i])) continue;
      const std::int64_t step = static_cast<std::int64_t>(i) / width % std::max<std::int64_t>(1, steps_.count);
      if (!has_axis(info, "step") || (steps_.measures(step) && trace.has_query(trace.prompt_length() + step))) ++count;
    }
    (*totals_[run])[m].add_not_finite(count);
  }
}

std::int64_t MetricSink::size_of(const Metric& metric) const {
  std::int64_t size = 1;
  for (const auto& axis : metric.info().axes)
    size *= axis == "query_head" ? query_heads_ : axis == "step" ? steps_.count : axis == "region" ? num_regions : 1;
  return size;
}

}  // namespace kvreplay
