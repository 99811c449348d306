#if KVREPLAY_WITH_FIGURES
#include "trace_tools/report/figures.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/text.h"
#include "core/report/metric_info.h"
#include "gui/figure/heat_map.h"
#include "gui/figure/line_chart.h"
#include "trace_tools/report/numbers.h"

namespace kvreplay::cli {
namespace {

using figure::HeatMap;
using figure::LineChart;
using figure::Series;

std::string value_label(const MetricInfo& text) {
  return text.unit.empty() ? text.title : text.title + " (" + text.unit + ")";
}

// A policy that evicts nothing at any budget (the full cache) is a flat line at no error: the notes say it, pictures need
// not.
bool evicts(const Comparison& comparison, const std::string& label) {
  return std::any_of(comparison.runs.begin(), comparison.runs.end(),
                     [&](const RunSummary& run) { return run.label == label && run.evicted > 0; });
}

// Colours and markers follow the policy, not the figure.
Series series_of(const Comparison& comparison, const Cell& cell) {
  Series series;
  series.name = cell.label;
  series.reference = cell.bound;
  series.style = static_cast<int>(std::count_if(comparison.labels.begin(),
                                                std::find(comparison.labels.begin(), comparison.labels.end(), cell.label),
                                                [&](const std::string& label) { return evicts(comparison, label); }));
  return series;
}

void set_provenance(const ReportSources& sources, figure::Figure& figure) {
  for (const auto& file : sources.files) figure.provenance.emplace_back("results", file->path());
  for (const auto& run : sources.comparison.runs) {
    figure.provenance.emplace_back("trace",
                                   run.info.trace + (run.info.trace_sha256.empty() ? "" : " " + run.info.trace_sha256));
    if (const Trace* trace = sources.trace_of(run.info)) figure.provenance.emplace_back("model", trace->model().name);
    figure.provenance.emplace_back("made by", run.info.created_by);
    break;
  }
}

ReportFigure metric_by_budget(const ReportSources& sources) {
  const Comparison& comparison = sources.comparison;
  const MetricInfo& text = metric_info(sources.metric);
  auto chart = std::make_unique<LineChart>();
  const bool several = comparison.traces.size() > 1;
  std::string over = "layers";
  chart->title = text.title + " against budget";
  chart->x.label = "budget (tokens per head, share of the prompt)";
  chart->x.logarithmic = comparison.budgets.front().budget > 0;
  chart->y.label = value_label(text);
  chart->y.logarithmic = text.logarithmic;
  for (const auto& group : comparison.budgets)
    chart->x.ticks.push_back(
        {static_cast<double>(group.budget), report_count(group.budget) + "\n" + report_percent(group.ratio)});
  for (const auto& label : comparison.labels) {
    if (!evicts(comparison, label)) continue;
    Series series;
    for (const auto& group : comparison.budgets) {
      for (const auto& cell : group.cells) {
        const auto found = cell.metrics.find(sources.metric);
        if (cell.label != label || found == cell.metrics.end()) continue;
        if (series.x.empty()) series = series_of(comparison, cell);
        const MetricSummary& summary = found->second;
        over = summary.over;
        series.x.push_back(static_cast<double>(group.budget));
        series.y.push_back(summary.distribution.mean);
        series.low.push_back(several ? summary.interval.low : summary.distribution.p5);
        series.high.push_back(several ? summary.interval.high : summary.distribution.p95);
      }
    }
    if (!series.x.empty()) chart->series.push_back(std::move(series));
  }
  chart->subtitle =
      std::string("Mean over layers and steps; whiskers: ") +
      (several ? "95 % bootstrap interval of the mean over " + std::to_string(comparison.traces.size()) + " traces"
               : "5th to 95th percentile over " + over);
  return {
      "by-budget",
      "The dashed line is a bound found in hindsight, from queries that come after the eviction: the distance to it is what "
      "a "
      "better policy could still gain. Points at the same budget are set apart sideways so that their whiskers can be read.",
      std::move(chart)};
}

ReportFigure metric_by_layer(const ReportSources& sources, const BudgetGroup& group) {
  const MetricInfo& text = metric_info(sources.metric);
  auto chart = std::make_unique<LineChart>();
  chart->title = text.title + " by layer";
  chart->subtitle =
      "Budget " + group.text + "; mean over " + (sources.comparison.traces.size() > 1 ? "steps and traces" : "steps");
  chart->x.label = "layer";
  chart->x.integers = true;
  chart->y.label = value_label(text);
  for (const auto& cell : group.cells) {
    const auto found = cell.metrics.find(sources.metric);
    if (found == cell.metrics.end() || found->second.by_layer.empty()) continue;
    Series series = series_of(sources.comparison, cell);
    for (std::size_t layer = 0; layer < found->second.by_layer.size(); ++layer) {
      series.x.push_back(static_cast<double>(layer));
      series.y.push_back(found->second.by_layer[layer]);
    }
    chart->series.push_back(std::move(series));
  }
  return {"by-layer",
          "Where in the model the error arises. Layers are numbered from 0 in the order in which they were captured.",
          std::move(chart)};
}

// The first metric in table order that has a value a head.
std::string head_metric(const ReportSources& sources) {
  for (const auto& name : sources.comparison.metrics)
    for (const auto& run : sources.comparison.runs) {
      const auto found = run.metrics.find(name);
      if (found != run.metrics.end() && !found->second.by_head.empty()) return name;
    }
  return "";
}

ReportFigure head_map(const BudgetGroup& group, const std::string& metric) {
  const MetricInfo& text = metric_info(metric);
  auto map = std::make_unique<HeatMap>();
  map->title = text.title + " by head";
  map->subtitle = "Budget " + group.text + "; mean over steps";
  map->row_label = "layer", map->column_label = "query head";
  map->value_label = value_label(text);
  for (const auto& cell : group.cells) {
    const auto found = cell.metrics.find(metric);
    if (found == cell.metrics.end() || found->second.by_head.empty() || found->second.by_layer.empty()) continue;
    const auto rows = static_cast<std::int64_t>(found->second.by_layer.size());
    const auto columns = static_cast<std::int64_t>(found->second.by_head.size()) / rows;
    if (map->panels.empty()) map->rows = rows, map->columns = columns;
    if (rows != map->rows || columns != map->columns) continue;
    map->panels.push_back({cell.label, {found->second.by_head.begin(), found->second.by_head.end()}});
  }
  return {"by-head",
          "One square is one query head of one layer; all maps share one scale. A bright square is a head that loses much "
          "of what it read.",
          std::move(map)};
}

ReportFigure head_ranking(const ReportSources& sources, const BudgetGroup& group, const std::string& metric) {
  const MetricInfo& text = metric_info(metric);
  auto chart = std::make_unique<LineChart>();
  chart->title = "The heads that break: " + lower_first(text.title) + " from the best head to the worst";
  chart->subtitle = "Budget " + group.text + "; mean over steps";
  chart->x.label = "share of heads (%)";
  chart->x.minimum = 0, chart->x.maximum = 100;
  chart->y.label = value_label(text);
  chart->y.logarithmic = text.logarithmic;
  for (const auto& cell : group.cells) {
    const auto found = cell.metrics.find(metric);
    if (found == cell.metrics.end() || found->second.by_head.empty()) continue;
    std::vector<double> values = found->second.by_head;
    std::erase_if(values, [](double value) { return std::isnan(value); });
    std::sort(values.begin(), values.end());
    if (higher_is_better(text)) std::reverse(values.begin(), values.end());
    Series series = series_of(sources.comparison, cell);
    for (std::size_t i = 0; i < values.size(); ++i) {
      series.x.push_back(100.0 * (static_cast<double>(i) + 1) / static_cast<double>(values.size()));
      series.y.push_back(values[i]);
    }
    chart->series.push_back(std::move(series));
  }
  return {"head-ranking",
          "At 95 on the axis across a line shows the value that 95 % of its heads do not exceed. What happens at the right "
          "end is what a mean hides.",
          std::move(chart)};
}

ReportFigure kept_map(const ReportSources& sources, const BudgetGroup& group) {
  auto map = std::make_unique<HeatMap>();
  map->title = "Where the kept tokens are";
  map->column_label = "position";
  map->value_label = "share of heads that keep the token";
  map->color_map = figure::ColorMap::cividis;
  map->minimum = 0, map->maximum = 1;
  map->reduction = figure::Reduction::mean;
  HeatMap::Panel panel;
  const RunSummary* first = nullptr;
  for (const auto& cell : group.cells) {
    const RunSummary& run = sources.comparison.runs[cell.runs.front()];
    if (first == nullptr) first = &run;
    if (run.info.trace != first->info.trace) continue;
    const std::vector<float> share = kept_share(run);
    if (map->columns == 0) map->columns = static_cast<std::int64_t>(share.size());
    if (map->columns != static_cast<std::int64_t>(share.size())) continue;
    panel.values.insert(panel.values.end(), share.begin(), share.end());
    map->row_names.push_back(cell.label);
    ++map->rows;
  }
  map->subtitle = "Budget " + group.text + "; after the last step";
  if (map->columns > 1500) map->subtitle += "; where a column stands for several tokens, their mean";
  if (first != nullptr) {
    if (const Trace* trace = sources.trace_of(first->info))
      for (const auto& span : trace->spans()) map->marks.push_back({span.start, span.end, span.label});
    if (map->marks.empty() && first->prompt_length < map->columns)
      map->marks.push_back({first->prompt_length, map->columns, "generated"});
  }
  map->panels.push_back(std::move(panel));
  return {"kept-map",
          "The text from left to right, one row a policy. Bright: every head still holds the token; dark: none does.",
          std::move(map)};
}

}  // namespace

std::vector<ReportFigure> report_figures(const ReportSources& sources, const BudgetGroup& shown) {
  BudgetGroup group = shown;
  std::erase_if(group.cells, [&](const Cell& cell) { return !evicts(sources.comparison, cell.label); });
  if (group.cells.empty()) return {};
  std::vector<ReportFigure> figures;
  if (!sources.metric.empty()) {
    figures.push_back(metric_by_budget(sources));
    figures.push_back(metric_by_layer(sources, group));
  }
  const std::string heads = head_metric(sources);
  if (!heads.empty()) {
    figures.push_back(head_map(group, heads));
    figures.push_back(head_ranking(sources, group, heads));
  }
  figures.push_back(kept_map(sources, group));
  for (auto& one : figures) set_provenance(sources, *one.figure);
  std::erase_if(figures, [](const ReportFigure& one) { return one.figure->data().rows.empty(); });
  return figures;
}

}  // namespace kvreplay::cli
#endif
