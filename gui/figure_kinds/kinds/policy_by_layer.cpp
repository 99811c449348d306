#include <algorithm>

#include "gui/figure_kinds/selection.h"

namespace kvreplay::figure {
namespace {

std::unique_ptr<Figure> make(const FigureRequest& request) {
  const auto& [comparison, metric, info, group] = chosen_metric_at_budget(request);
  auto map = std::make_unique<HeatMap>();
  map->title = info.title + ", policy by layer";
  map->subtitle = "Budget " + group.text + "; " + mean_over(comparison, "steps");
  map->column_label = "layer";
  map->value_label = value_label(info);
  map->numbers = true;
  std::vector<double> subtracted;
  const std::string& minus = request.options.text("minus");
  std::string minus_label;
  if (minus != "none") {
    const RunSummary& run = chosen_run(request, "minus");
    const auto found = run.metrics.find(metric);
    if (found == run.metrics.end()) throw figure_error(request, run.label + " has no " + metric);
    minus_label = run.label;
    for (const auto& cell : group.cells)
      if (cell.label == minus_label) subtracted = cell.metrics.at(metric).by_layer;
    map->color_map = ColorMap::diverging;
    map->value_label += ", minus that of " + minus_label;
  }
  HeatMap::Panel panel;
  const RunSummary* first = nullptr;
  for (const auto& [cell, summary] : chosen_cells(request, group, metric)) {
    if (summary->by_layer.empty() || cell->label == minus_label) continue;
    if (first == nullptr) {
      first = &comparison.runs[cell->runs.front()];
      map->columns = static_cast<std::int64_t>(summary->by_layer.size());
    }
    if (static_cast<std::int64_t>(summary->by_layer.size()) != map->columns) continue;
    if (!subtracted.empty() && subtracted.size() != summary->by_layer.size())
      throw figure_error(request, "the runs are of different models");
    for (std::size_t i = 0; i < summary->by_layer.size(); ++i)
      panel.values.push_back(static_cast<float>(summary->by_layer[i] - (subtracted.empty() ? 0 : subtracted[i])));
    map->row_names.push_back(cell->label);
    ++map->rows;
  }
  if (first == nullptr)
    throw figure_error(request, minus == "none" ? "these results have no values of single layers"
                                                : "there is nothing to compare with " + minus);
  for (std::int64_t i = 0; i < map->columns; ++i)
    map->column_names.push_back(std::to_string(layer_number(request, *first, i)));
  map->panels.push_back(std::move(panel));
  return map;
}

}  // namespace

const FigureKind& policy_by_layer_kind() {
  static const FigureKind kind = {
      .name = "policy_by_layer",
      .idea = "Policies × layers as a heat map: which layer each policy breaks, or where it beats another.",
      .needs = "results",
      .parameters = {policies_option(), minus_option(), metric_option(), budget_option()},
      .make = make,
  };
  return kind;
}

}  // namespace kvreplay::figure
