#include <algorithm>

#include "core/report/comparison.h"
#include "gui/figure_kinds/selection.h"

namespace kvreplay::figure {
namespace {

std::unique_ptr<Figure> make(const FigureRequest& request) {
  const Comparison& comparison = results_of(request).comparison;
  const BudgetGroup& group = chosen_budget(request);
  const std::vector<std::string> labels = chosen_policies(request);
  auto map = std::make_unique<HeatMap>();
  map->title = "Where the kept tokens are";
  map->column_label = "position";
  map->value_label = "share of heads that keep the token";
  map->color_map = ColorMap::cividis;
  map->minimum = 0, map->maximum = 1;
  map->reduction = Reduction::mean;
  HeatMap::Panel panel;
  const RunSummary* first = nullptr;
  std::pair<std::int64_t, std::int64_t> range;
  for (const auto& cell : group.cells) {
    const RunSummary& run = comparison.runs[cell.runs.front()];
    if (std::find(labels.begin(), labels.end(), cell.label) == labels.end()) continue;
    if (first != nullptr && run.info.trace != first->info.trace) continue;
    const std::vector<float> share = kept_share(run);
    if (share.empty()) continue;
    if (first == nullptr) {
      first = &run;
      range = chosen_tokens(request, run.tokens);
      map->columns = range.second - range.first;
      map->first_column = static_cast<double>(range.first);
    }
    if (static_cast<std::int64_t>(share.size()) != first->tokens) continue;
    panel.values.insert(panel.values.end(), share.begin() + range.first, share.begin() + range.second);
    map->row_names.push_back(cell.label);
    ++map->rows;
    use(request, cell);
  }
  if (first == nullptr)
    throw figure_error(request, "no chosen run says which tokens were evicted at " + group.text,
                       "results of `replay --summary-only` do not");
  map->subtitle = "Budget " + group.text + "; after the last step";
  if (map->columns > 1500) map->subtitle += "; where a column stands for several tokens, their mean";
  map->marks = marks_of(request, *first, range.first, range.second);
  map->panels.push_back(std::move(panel));
  return map;
}

}  // namespace

const FigureKind& kept_map_kind() {
  static const FigureKind kind = {
      .name = "kept_map",
      .idea = "The text from left to right, one row a policy: the share of heads that still hold each token at the end.",
      .needs = "results; with their trace its marked spans are named",
      .parameters = {policies_option(), budget_option(),
                     text_option("tokens", "a stretch BEGIN:END of the text, or all", "all")},
      .make = make,
  };
  return kind;
}

}  // namespace kvreplay::figure
