#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/text.h"
#include "gui/figure_kinds/selection.h"

namespace kvreplay::figure {
namespace {

constexpr std::int64_t stretches = 48;  // of the text, in a head's small map

void name_layers(const FigureRequest& request, const RunSummary& run, HeatMap& map) {
  for (std::int64_t layer = 0; layer < run.layers; ++layer)
    if (layer_number(request, run, layer) != layer) {
      for (std::int64_t i = 0; i < run.layers; ++i) map.row_names.push_back(std::to_string(layer_number(request, run, i)));
      return;
    }
}

std::vector<float> floats(const std::vector<double>& values) { return {values.begin(), values.end()}; }

// One number a head: a metric's mean over steps.
std::unique_ptr<Figure> numbers(const FigureRequest& request) {
  const auto& [comparison, metric, info, group] = chosen_metric_at_budget(request, true);
  auto map = std::make_unique<HeatMap>();
  map->title = info.title + " by head";
  map->subtitle = "Budget " + group.text + "; " + mean_over(comparison, "steps");
  map->row_label = "layer", map->column_label = "query head";
  map->value_label = value_label(info);
  map->numbers = request.options.text("numbers") == "true";
  std::vector<float> subtracted;
  const std::string& minus = request.options.text("minus");
  if (minus != "none") {
    const RunSummary& run = chosen_run(request, "minus");
    const auto found = run.metrics.find(metric);
    if (found == run.metrics.end() || found->second.by_head.empty())
      throw figure_error(request, run.label + " has no " + metric + " for each head");
    subtracted = floats(found->second.by_head);
    map->color_map = ColorMap::diverging;
    map->value_label = value_label(info) + ", minus that of " + run.label;
  }
  for (const auto& [cell, summary] : chosen_cells(request, group, metric)) {
    if (summary->by_head.empty() || summary->by_layer.empty()) continue;
    const auto rows = static_cast<std::int64_t>(summary->by_layer.size());
    const auto columns = static_cast<std::int64_t>(summary->by_head.size()) / rows;
    if (map->panels.empty()) {
      map->rows = rows, map->columns = columns;
      name_layers(request, comparison.runs[cell->runs.front()], *map);
    }
    if (rows != map->rows || columns != map->columns) continue;
    HeatMap::Panel panel{cell->label, floats(summary->by_head)};
    if (!subtracted.empty()) {
      if (subtracted.size() != panel.values.size()) throw figure_error(request, "the two runs are of different models");
      if (panel.values == subtracted) continue;  // a policy minus itself
      for (std::size_t i = 0; i < panel.values.size(); ++i) panel.values[i] -= subtracted[i];
    }
    map->panels.push_back(std::move(panel));
  }
  if (map->panels.empty()) throw figure_error(request, "there is nothing to compare with " + minus);
  return map;
}

// A small map a head: the share of tokens it keeps in each stretch of the text.
std::unique_ptr<Figure> small_maps(const FigureRequest& request) {
  const BudgetGroup& group = chosen_budget(request);
  const RunSummary& run = chosen_run(request);
  if (run.info.summary_only) throw figure_error(request, "these results do not say which tokens were evicted");
  auto map = std::make_unique<HeatMap>();
  map->title = "What each head keeps of the text";
  map->subtitle = run.label + ", budget " + group.text + "; each map has the text from left to right, after the last step";
  map->row_label = "layer";
  map->column_label = run.info.granularity == "query_head" ? "query head"
                      : run.info.granularity == "layer"    ? "all heads"
                                                           : "KV head";
  map->value_label = "share of the tokens of a stretch that the head keeps";
  map->color_map = ColorMap::cividis;
  map->minimum = 0, map->maximum = 1;
  map->column_group = std::min(stretches, run.tokens);
  map->rows = run.layers, map->columns = run.heads * map->column_group;
  map->reduction = Reduction::mean;
  name_layers(request, run, *map);
  HeatMap::Panel panel{"", std::vector<float>(static_cast<std::size_t>(map->rows * map->columns), 0.0F)};
  for (std::int64_t layer = 0; layer < run.layers; ++layer) {
    const auto evicted_at = run.file->evicted_at(run.run, layer);
    for (std::int64_t head = 0; head < run.heads; ++head)
      for (std::int64_t k = 0; k < map->column_group; ++k) {
        const std::int64_t begin = k * run.tokens / map->column_group, end = (k + 1) * run.tokens / map->column_group;
        std::int64_t kept = 0;
        for (std::int64_t i = begin; i < end; ++i) kept += evicted_at(head, i) < 0 ? 1 : 0;
        panel.values[static_cast<std::size_t>(layer * map->columns + head * map->column_group + k)] =
            static_cast<float>(kept) / static_cast<float>(std::max<std::int64_t>(1, end - begin));
      }
  }
  map->panels.push_back(std::move(panel));
  return map;
}

std::unique_ptr<Figure> make(const FigureRequest& request) {
  return request.options.text("cells") == "map" ? small_maps(request) : numbers(request);
}

}  // namespace

const FigureKind& head_grid_kind() {
  static const FigureKind kind = {
      .name = "head_grid",
      .idea = "Layers × heads: a number of each head (which one breaks?), or a small map of what it keeps.",
      .needs = "results with a metric of single heads",
      .parameters = {text_option("policy",
                                 "policies; all: those that evict, a grid each. With cells=map one; auto: the best", "all"),
                     minus_option(), metric_option(), budget_option(),
                     choice_option("cells", "number: a metric's mean over steps. map: which stretches of the text are kept",
                                   {"number", "map"}, "number"),
                     choice_option("numbers", "write the values into the cells where they have room", {"true", "false"},
                                   "true")},
      .make = make,
  };
  return kind;
}

}  // namespace kvreplay::figure
