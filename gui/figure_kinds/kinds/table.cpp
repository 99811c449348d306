#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "core/base/text.h"
#include "core/report/numbers.h"
#include "core/report/policy_label.h"
#include "gui/figure/result_table.h"
#include "gui/figure_kinds/selection.h"

namespace kvreplay::figure {
namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

struct Field {
  double value = not_a_number, half_width = not_a_number;
};

Field field_of(const Cell* cell, const std::string& metric, double Distribution::*statistic) {
  if (cell == nullptr) return {};
  const auto found = cell->metrics.find(metric);
  if (found == cell->metrics.end()) return {};
  Field field{found->second.distribution.*statistic, not_a_number};
  if (statistic == &Distribution::mean) field.half_width = (found->second.interval.high - found->second.interval.low) / 2;
  return field;
}

const Cell* find_cell(const BudgetGroup& group, const std::string& label) {
  for (const auto& cell : group.cells)
    if (cell.label == label) return &cell;
  return nullptr;
}

// Which numbers stand in the columns.
struct Place {
  const BudgetGroup* group = nullptr;
  std::string metric;
  double Distribution::*statistic = &Distribution::mean;
};

std::vector<std::string> metrics_of(const FigureRequest& request) {
  const ReportSources& sources = results_of(request);
  if (request.options.text("metrics") == "auto") return table_metrics(sources);
  std::vector<std::string> names = split(request.options.text("metrics"), ';');
  for (const auto& name : names)
    if (!sources.comparison.has_values(name)) {
      const std::string guess = closest(name, sources.comparison.metrics);
      throw figure_error(
          request, "no run has values of \"" + printable(name) + "\"",
          guess.empty() ? "there are " + join(sources.comparison.metrics, ", ", " and ") : "did you mean " + guess + "?");
    }
  return names;
}

void add_columns(const FigureRequest& request, const std::string& metric, ResultTable& table, std::vector<Place>& places) {
  const Comparison& comparison = results_of(request).comparison;
  const auto column = [&](const std::string& name, const std::string& group, const std::string& title) {
    const MetricInfo& info = metric_info(name);
    table.columns.push_back({group, title, kvreplay::higher_is_better(info), info.direction != Direction::neither});
  };
  const std::string& columns = request.options.text("columns");
  if (columns == "auto" || columns == "budget") {
    for (const auto& group : comparison.budgets) {
      column(metric, "budget", report_count(group.budget));
      places.push_back({&group, metric});
    }
  } else if (columns == "metric") {
    for (const auto& name : metrics_of(request)) {
      column(name, "", metric_info(name).title);
      places.push_back({&chosen_budget(request), name});
    }
  } else if (columns == "statistic") {
    column(metric, metric_info(metric).title, "mean");
    column(metric, metric_info(metric).title, "median");
    const auto tail = tail_of(metric);
    places = {{&chosen_budget(request), metric}, {&chosen_budget(request), metric, &Distribution::median}};
    for (const auto& one : tail) {
      column(metric, metric_info(metric).title, one.name);
      places.push_back({&chosen_budget(request), metric, one.value});
    }
  } else {
    throw figure_error(request, "results have no columns \"" + printable(columns) + "\"",
                       "there are budget, metric and statistic");
  }
}

std::unique_ptr<Figure> from_results(const FigureRequest& request) {
  const Comparison& comparison = results_of(request).comparison;
  const std::string metric = chosen_metric(request);
  auto table = std::make_unique<ResultTable>();
  std::vector<Place> places;
  add_columns(request, metric, *table, places);
  table->row_label = "policy";
  const std::string& columns = request.options.text("columns");
  const bool several = comparison.traces.size() > 1;
  const std::string mean =
      several ? "mean over " + std::to_string(comparison.traces.size()) + " traces, ± half of its 95 % bootstrap interval"
              : "mean over layers and steps";
  if (columns == "metric") {
    table->title = "Policies at " + chosen_budget(request).text;
    table->subtitle = mean;
  } else if (columns == "statistic") {
    table->title = metric_info(metric).title + " at " + chosen_budget(request).text;
    table->subtitle = mean + "; quantiles over " + [&] {
      for (const auto& run : comparison.runs)
        if (const auto found = run.metrics.find(metric); found != run.metrics.end()) return found->second.over;
      return std::string("heads");
    }();
  } else {
    table->title = metric_info(metric).title + " by budget (tokens per head)";
    table->subtitle = mean;
  }
  table->subtitle += "; bold: best, underlined: second";
  table->subtitle[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(table->subtitle[0])));
  for (const auto& label : chosen_policies(request)) {
    ResultTable::Row row{label, {}};
    for (const auto& place : places) {
      const Cell* cell = find_cell(*place.group, label);
      if (cell != nullptr) use(request, *cell), row.reference = cell->bound;
      const Field field = field_of(cell, place.metric, place.statistic);
      row.values.push_back(field.value);
      if (several) row.half_width.push_back(field.half_width);
    }
    table->rows.push_back(std::move(row));
  }
  return table;
}

bool tells_apart(const ValueTable& values, const std::string& rows, const std::string& columns) {
  std::set<std::pair<std::string, std::string>> places;
  for (std::size_t i = 0; i < values.size(); ++i)
    if (!places.insert({values.text(i, rows), values.text(i, columns)}).second) return false;
  return true;
}

// For axes that are "auto": the first pair of columns of the table that has one value a cell, else policy and task.
void choose_axes(const ValueTable& values, std::string& rows, std::string& columns) {
  const auto candidates = [](const std::string& asked, std::vector<std::string> all) {
    return asked == "auto" ? std::move(all) : std::vector<std::string>{asked};
  };
  const auto several = [&](const std::string& column) { return values.distinct(column).size() > 1; };
  const auto all_rows = candidates(rows, {"policy", "setting"});
  const auto all_columns = candidates(columns, {"task", "context", "budget", "model", "metric"});
  for (bool both : {true, false})
    for (const auto& row : all_rows)
      for (const auto& column : all_columns) {
        if (!several(row) || (both && !several(column)) || !tells_apart(values, row, column)) continue;
        rows = row, columns = column;
        return;
      }
  rows = all_rows.front(), columns = all_columns.front();
}

std::unique_ptr<Figure> from_table(const FigureRequest& request) {
  ValueTable values = table_of(request);
  if (request.options.text("policy") != "all") values = values.only("policy", split(request.options.text("policy"), ';'));
  if (values.size() == 0) throw figure_error(request, "the table has none of these policies");
  std::string columns = request.options.text("columns");

  std::string rows = request.options.text("rows");
  choose_axes(values, rows, columns);
  if (!values.has(columns))
    throw figure_error(request, "the table has no column \"" + printable(columns) + "\"",
                       "--columns names one of the table's");
  auto table = std::make_unique<ResultTable>();
  table->row_label = rows;
  const std::string model = only_text(values, "model"), name = only_text(values, "table");
  table->title = name.empty() ? value_label(values) : name + ": " + value_label(values);
  table->subtitle = only_text(values, "paper") + (model.empty() ? "" : ", " + model) + "; bold: best, underlined: second";
  const bool higher = higher_is_better(request, values);
  const auto titles = values.distinct(columns);
  for (const auto& title : titles) {
    std::string shown = title.empty() ? (columns == "budget" ? "full" : columns == "context" ? "mean" : "–") : title;
    table->columns.push_back({titles.size() > 1 ? columns : "", shown, higher});
  }
  for (const auto& row_name : values.distinct(rows)) {
    ResultTable::Row row{row_name.empty() ? "–" : row_name, std::vector<double>(titles.size(), not_a_number)};
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (values.text(i, rows) != row_name) continue;
      row.reference = row.reference || keeps_everything(values.text(i, "policy"));
      const auto at =
          static_cast<std::size_t>(std::find(titles.begin(), titles.end(), values.text(i, columns)) - titles.begin());
      if (!std::isnan(row.values[at]))
        throw figure_error(request,
                           "there are several values for " + row.name + " and " + columns + " " + table->columns[at].title,
                           "--where COLUMN=TEXT chooses, --columns and --rows set out others");
      row.values[at] = values.value(i);
    }
    table->rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace

const FigureKind& table_kind() {
  static const FigureKind kind = {
      .name = "table",
      .idea = "A table as in papers, best in bold, second underlined; -o FILE.tex writes LaTeX.",
      .needs = "results, or a table of values",
      .parameters = {policies_option(), metric_option(), budget_option(),
                     text_option(
                         "columns",
                         "budget, metric or statistic (mean, median, 95th, 99th percentile); of a table of values one of "
                         "its columns. auto: budget, or the first with several values",
                         "auto"),
                     text_option("metrics", "with columns=metric: which; auto: the short tables'", "auto"),
                     text_option("rows", "of a table of values: which column names the rows; auto: policy, or setting",
                                 "auto"),
                     best_option(), where_option()},
      .make =
          [](const FigureRequest& request) { return has_results(request) ? from_results(request) : from_table(request); },
  };
  return kind;
}

}  // namespace kvreplay::figure
