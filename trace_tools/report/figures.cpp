#if KVREPLAY_WITH_FIGURES
#include "trace_tools/report/figures.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/text.h"
#include "core/report/metric_info.h"
#include "core/report/numbers.h"
#include "gui/figure/heat_map.h"
#include "gui/figure/line_chart.h"

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

void set_budget_axes(const ReportSources& sources, LineChart& chart) {
  const MetricInfo& text = metric_info(sources.metric);
  chart.x.label = "budget (tokens per head, share of the prompt)";
  chart.x.logarithmic = sources.comparison.budgets.front().budget > 0;
  chart.y.label = value_label(text);
  chart.y.logarithmic = text.logarithmic;
  for (const auto& group : sources.comparison.budgets)
    chart.x.ticks.push_back(
        {static_cast<double>(group.budget), report_count(group.budget) + "\n" + report_percent(group.ratio)});
}

// One line a policy: a statistic of the leading metric over the budgets.
std::vector<Series> lines_over_budgets(const ReportSources& sources, double Distribution::*statistic, bool intervals) {
  const Comparison& comparison = sources.comparison;
  std::vector<Series> lines;
  for (const auto& label : comparison.labels) {
    if (!evicts(comparison, label)) continue;
    Series series;
    for (const auto& group : comparison.budgets) {
      for (const auto& cell : group.cells) {
        const auto found = cell.metrics.find(sources.metric);
        if (cell.label != label || found == cell.metrics.end()) continue;
        if (series.x.empty()) series = series_of(comparison, cell);
        series.x.push_back(static_cast<double>(group.budget));
        series.y.push_back(found->second.distribution.*statistic);
        if (!intervals) continue;
        series.low.push_back(found->second.interval.low);
        series.high.push_back(found->second.interval.high);
      }
    }
    if (!series.x.empty()) lines.push_back(std::move(series));
  }
  return lines;
}

ReportFigure mean_by_budget(const ReportSources& sources) {
  auto chart = std::make_unique<LineChart>();
  const auto traces = sources.comparison.traces.size();
  chart->title = metric_info(sources.metric).title + " against budget";
  chart->subtitle = traces > 1 ? "Mean over " + std::to_string(traces) + " traces, with its 95 % bootstrap interval"
                               : "Mean over layers and steps";
  set_budget_axes(sources, *chart);
  chart->series = lines_over_budgets(sources, &Distribution::mean, traces > 1);
  std::string help = "Dashed: found in hindsight, from the queries that come after the eviction.";
  if (traces > 1) help += " Points at the same budget are set apart sideways so that their intervals can be read.";
  return {"by-budget", help, std::move(chart)};
}

// What the mean hides, on common axes.
ReportFigure tail_by_budget(const ReportSources& sources) {
  auto chart = std::make_unique<LineChart>();
  std::string over = "heads";
  for (const auto& run : sources.comparison.runs) {
    const auto found = run.metrics.find(sources.metric);
    if (found != run.metrics.end()) over = found->second.over;
  }
  chart->title = metric_info(sources.metric).title + ": the middle and the worst " + over;
  chart->subtitle = "Quantiles over " + over + ", each a mean over steps";
  set_budget_axes(sources, *chart);
  const auto tail = tail_of(sources.metric);
  const auto title = [](const std::string& name) { return name.substr(1) + (name == "p1" ? "st" : "th") + " percentile"; };
  chart->panels.push_back({"median", lines_over_budgets(sources, &Distribution::median, false)});
  for (const auto& one : tail) chart->panels.push_back({title(one.name), lines_over_budgets(sources, one.value, false)});
  return {"tail-by-budget",
          "The same axes in all three. A policy can look good in the mean and still break a few " + over + ".",
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
      if (found != run.metrics.end() && !found->second.by_head.empty() && found->second.distribution.count > 0) return name;
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
    if (share.empty()) continue;
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
    figures.push_back(mean_by_budget(sources));
    std::int64_t values = 0, layers = 0;
    for (const auto& run : sources.comparison.runs) {
      layers = std::max(layers, run.layers);
      if (const auto found = run.metrics.find(sources.metric); found != run.metrics.end())
        values = std::max(values, found->second.distribution.count);
    }
    // Of a single layer there is no spread to show.
    if (values > 1) figures.push_back(tail_by_budget(sources));
    if (layers > 1) figures.push_back(metric_by_layer(sources, group));
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
