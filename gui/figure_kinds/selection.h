// What kinds of figure have in common: their options, and what of the sources an option means.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/report/metric_info.h"
#include "gui/figure/heat_map.h"
#include "gui/figure/line_chart.h"
#include "gui/figure_kinds/kind.h"

namespace kvreplay::figure {

Parameter text_option(std::string key, std::string doc, std::string otherwise);
Parameter choice_option(std::string key, std::string doc, std::vector<std::string> choices, std::string otherwise);
Parameter integer_option(std::string key, std::string doc, int minimum, int otherwise);
Parameter policies_option();  // "policy": several; all: those that evict
Parameter policy_option();    // "policy": one; auto: the only one, or the best at the budget
Parameter minus_option();     // "minus": what is subtracted, or none
Parameter metric_option();    // "metric"; auto: the first of the short tables that has what the figure needs
Parameter budget_option();    // "budget": one; auto: nearest a tenth of the prompt
Parameter where_option();     // "where": rows of a table of values
Parameter best_option();      // "best": whether more or less is better

// Throws Error where there are no results, where they have no metrics, where there is no table.
const ReportSources& results_of(const FigureRequest& request);
ValueTable table_of(const FigureRequest& request);  // what "where" leaves
bool has_results(const FigureRequest& request);
// Throws the Error that the kind would need other files.
[[noreturn]] void refuse_sources(const FigureRequest& request);

// Error with the name of the figure.
Error figure_error(const FigureRequest& request, const std::string& what, const std::string& remedy = {});

// What "policy" names, as labels of the comparison in its order. Names are labels, policy strings, or presets where they
// are unique. all: those that evict something anywhere, and the bounds.
std::vector<std::string> chosen_policies(const FigureRequest& request);
// What "metric" names. auto: the leading metric, or the first with a value for each head.
std::string chosen_metric(const FigureRequest& request, bool by_head = false);
const BudgetGroup& chosen_budget(const FigureRequest& request);

// What most kinds begin with: the metric and the budget that the options name, of the results.
struct ChosenMetric {
  const Comparison& comparison;
  std::string metric;
  const MetricInfo& info;  // of the metric
  const BudgetGroup& group;
};
ChosenMetric chosen_metric_at_budget(const FigureRequest& request, bool by_head = false);

// A cell at the budget with one metric of it. Cells that lack it are left out; Error where none has it.
struct ChosenCell {
  const Cell* cell = nullptr;
  const MetricSummary* metric = nullptr;
};
std::vector<ChosenCell> chosen_cells(const FigureRequest& request, const BudgetGroup& group, const std::string& metric);
// The run of the option `key` at the budget, on the first trace of the results.
const RunSummary& chosen_run(const FigureRequest& request, const std::string& key = "policy");
void use(const FigureRequest& request, const Cell& cell);

// "all" or model layers "0;3" as indices into the captured ones.
std::vector<std::int64_t> chosen_layers(const FigureRequest& request, const RunSummary& run);
// The model's own number of a captured layer.
int layer_number(const FigureRequest& request, const RunSummary& run, std::int64_t index);
// "all" or "begin:end" of `count`.
std::pair<std::int64_t, std::int64_t> chosen_tokens(const FigureRequest& request, std::int64_t count);
// The trace's spans within [begin, end), moved to begin at 0; what was generated where there are none.
std::vector<ColumnMark> marks_of(const FigureRequest& request, const RunSummary& run, std::int64_t begin, std::int64_t end);

// Colours and markers follow the policy, not the figure.
Series series_of(const Comparison& comparison, const std::string& label);
std::string value_label(const MetricInfo& metric);
std::string metric_value_label(const std::string& metric);
// "mean over steps", with traces where there are several.
std::string mean_over(const Comparison& comparison, const std::string& what);

// Of values from elsewhere: "score (points)", and whether more of it is better.
std::string value_label(const ValueTable& table);
bool higher_is_better(const FigureRequest& request, const ValueTable& table);
// The only text of a column, or "" where there are several or none.
std::string only_text(const ValueTable& table, const std::string& column);
// "full": the row of the whole cache, which has no budget.
bool is_full_cache(const ValueTable& table, std::size_t row);

}  // namespace kvreplay::figure
