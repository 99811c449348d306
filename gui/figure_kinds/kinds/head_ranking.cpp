#include <algorithm>
#include <cmath>

#include "core/report/numbers.h"
#include "gui/figure_kinds/selection.h"

namespace kvreplay::figure {
namespace {

std::unique_ptr<Figure> make(const FigureRequest& request) {
  const auto& [comparison, metric, info, group] = chosen_metric_at_budget(request, true);
  auto chart = std::make_unique<LineChart>();
  chart->title = "The heads that break: " + lower_first(info.title) + " from the best head to the worst";
  chart->subtitle = "Budget " + group.text + "; " + mean_over(comparison, "steps");
  chart->x.label = "share of heads (%)";
  chart->x.minimum = 0, chart->x.maximum = 100;
  chart->y.label = value_label(info);
  for (const auto& [cell, summary] : chosen_cells(request, group, metric)) {
    std::vector<double> values = summary->by_head;
    std::erase_if(values, [](double value) { return std::isnan(value); });
    if (values.empty()) continue;
    std::sort(values.begin(), values.end());
    if (kvreplay::higher_is_better(info)) std::reverse(values.begin(), values.end());
    Series series = series_of(comparison, cell->label);
    for (std::size_t i = 0; i < values.size(); ++i) {
      series.x.push_back(100.0 * (static_cast<double>(i) + 1) / static_cast<double>(values.size()));
      series.y.push_back(values[i]);
    }
    chart->series.push_back(std::move(series));
  }
  return chart;
}

}  // namespace

const FigureKind& head_ranking_kind() {
  static const FigureKind kind = {
      .name = "head_ranking",
      .idea = "The heads from the best to the worst by a metric, one line a policy: what a mean hides.",
      .needs = "results with a metric of single heads",
      .parameters = {policies_option(), metric_option(), budget_option()},
      .make = make,
  };
  return kind;
}

}  // namespace kvreplay::figure
