#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/text.h"
#include "gui/figure_kinds/selection.h"

namespace kvreplay::figure {
namespace {

// Mean of a metric over the chosen layers and all heads, for each step; NaN where nothing was measured.
std::vector<double> by_step(const FigureRequest& request, const RunSummary& run, const std::string& metric) {
  const MetricValues values = run.file->metric(run.run, metric);
  if (values.axes.size() < 2 || values.axes.back() != "step" || values.axes.front() != "layer")
    throw figure_error(request, metric + " has no value for each step", "output_error and evicted_mass have");
  const auto steps = static_cast<std::size_t>(values.shape.back());
  const auto layers = static_cast<std::size_t>(values.shape.front());
  const std::size_t rows = layers == 0 || steps == 0 ? 0 : values.values.size() / layers / steps;
  std::vector<double> sum(steps, 0.0), count(steps, 0.0);
  for (std::int64_t layer : chosen_layers(request, run))
    for (std::size_t row = 0; row < rows; ++row)
      for (std::size_t s = 0; s < steps; ++s) {
        const float value = values.values[(static_cast<std::size_t>(layer) * rows + row) * steps + s];
        if (std::isnan(value)) continue;
        sum[s] += value;
        ++count[s];
      }
  for (std::size_t s = 0; s < steps; ++s)
    sum[s] = count[s] > 0 ? sum[s] / count[s] : std::numeric_limits<double>::quiet_NaN();
  return sum;
}

std::unique_ptr<Figure> make(const FigureRequest& request) {
  const auto& [comparison, metric, info, group] = chosen_metric_at_budget(request);
  auto chart = std::make_unique<LineChart>();
  const std::string& layer = request.options.text("layer");
  chart->title = info.title + " by decode step";
  chart->subtitle = "Budget " + group.text + "; " + (layer == "all" ? mean_over(comparison, "layers") : "layer " + layer);
  chart->x = {.label = "decode step (1: the first query after the prompt)",
              .integers = true,
              .minimum = {},
              .maximum = {},
              .ticks = {}};
  chart->y.label = value_label(info);
  chart->y.logarithmic = request.options.text("scale") == "log";
  for (const auto& [cell, summary] : chosen_cells(request, group, metric)) {
    Series series = series_of(comparison, cell->label);
    std::vector<double> sum, count;
    for (std::size_t i : cell->runs) {
      const RunSummary& run = comparison.runs[i];
      if (run.info.summary_only) throw figure_error(request, "these results have no values of single steps");
      const std::vector<double> own = by_step(request, run, metric);
      sum.resize(std::max(sum.size(), own.size())), count.resize(sum.size());
      for (std::size_t s = 0; s < own.size(); ++s)
        if (std::isfinite(own[s])) sum[s] += own[s], ++count[s];
    }
    for (std::size_t s = 0; s < sum.size(); ++s) {
      series.x.push_back(static_cast<double>(s) + 1);
      series.y.push_back(count[s] > 0 ? sum[s] / count[s] : std::numeric_limits<double>::quiet_NaN());
    }
    chart->series.push_back(std::move(series));
  }
  return chart;
}

}  // namespace

const FigureKind& error_by_step_kind() {
  static const FigureKind kind = {
      .name = "error_by_step",
      .idea = "A metric over the decode steps at one budget: whether the error grows while the model writes.",
      .needs = "results",
      .parameters = {policies_option(), metric_option(), budget_option(),
                     text_option("layer", "model layers, or all: their mean", "all"),
                     choice_option("scale", "of the y axis", {"linear", "log"}, "linear")},
      .make = make,
  };
  return kind;
}

}  // namespace kvreplay::figure
