#include "gui/figure_kinds/selection.h"

namespace kvreplay::figure {
namespace {

std::unique_ptr<Figure> make(const FigureRequest& request) {
  const auto& [comparison, metric, info, group] = chosen_metric_at_budget(request);
  auto chart = std::make_unique<LineChart>();
  chart->title = info.title + " by layer";
  chart->subtitle = "Budget " + group.text + "; " + mean_over(comparison, "steps");
  chart->x = {.label = "layer", .integers = true, .minimum = {}, .maximum = {}, .ticks = {}};
  chart->y.label = value_label(info);
  chart->y.logarithmic = request.options.text("scale") == "log";
  for (const auto& [cell, summary] : chosen_cells(request, group, metric)) {
    if (summary->by_layer.empty()) continue;
    Series series = series_of(comparison, cell->label);
    for (std::size_t layer = 0; layer < summary->by_layer.size(); ++layer) {
      series.x.push_back(layer_number(request, comparison.runs[cell->runs.front()], static_cast<std::int64_t>(layer)));
      series.y.push_back(summary->by_layer[layer]);
    }
    chart->series.push_back(std::move(series));
  }
  if (chart->series.empty())
    throw figure_error(request, "these results have no values of single layers", "they were written with --summary-only");
  return chart;
}

}  // namespace

const FigureKind& error_by_layer_kind() {
  static const FigureKind kind = {
      .name = "error_by_layer",
      .idea = "A metric layer by layer at one budget, one line a policy: where in the model the error arises.",
      .needs = "results",
      .parameters = {policies_option(), metric_option(), budget_option(),
                     choice_option("scale", "of the y axis", {"linear", "log"}, "linear")},
      .make = make,
  };
  return kind;
}

}  // namespace kvreplay::figure
