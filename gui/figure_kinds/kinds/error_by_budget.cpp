#include <algorithm>
#include <cmath>

#include "core/base/text.h"
#include "core/report/numbers.h"
#include "gui/figure_kinds/selection.h"

namespace kvreplay::figure {
namespace {

struct Statistic {
  std::string title;
  double Distribution::*value;
};

// One line a policy over the budgets.
std::vector<Series> lines(const FigureRequest& request, const std::string& metric, double Distribution::*value,
                          bool intervals) {
  const Comparison& comparison = results_of(request).comparison;
  std::vector<Series> all;
  for (const auto& label : chosen_policies(request)) {
    Series series = series_of(comparison, label);
    for (const auto& group : comparison.budgets)
      for (const auto& cell : group.cells) {
        const auto found = cell.metrics.find(metric);
        if (cell.label != label || found == cell.metrics.end()) continue;
        use(request, cell);
        series.x.push_back(static_cast<double>(group.budget));
        series.y.push_back(found->second.distribution.*value);
        if (!intervals) continue;
        series.low.push_back(found->second.interval.low);
        series.high.push_back(found->second.interval.high);
      }
    if (!series.x.empty()) all.push_back(std::move(series));
  }
  return all;
}

std::unique_ptr<Figure> from_results(const FigureRequest& request) {
  const Comparison& comparison = results_of(request).comparison;
  const std::string metric = chosen_metric(request);
  const MetricInfo& info = metric_info(metric);
  if (comparison.budgets.size() < 2)
    throw figure_error(request, "all runs have the same budget, " + comparison.budgets[0].text,
                       "replay with several (--budget 5%,10%,20%); `kvreplay figure table` compares policies at one");
  auto chart = std::make_unique<LineChart>();
  const bool several = comparison.traces.size() > 1;
  chart->x.label = "budget (tokens per head, share of the prompt)";
  chart->x.logarithmic = comparison.budgets.front().budget > 0;
  chart->y.label = value_label(info);
  const std::string& scale = request.options.text("scale");
  chart->y.logarithmic = scale == "log" || (scale == "auto" && info.logarithmic);
  for (const auto& group : comparison.budgets)
    chart->x.ticks.push_back(
        {static_cast<double>(group.budget), report_count(group.budget) + "\n" + report_percent(group.ratio)});

  const std::string& statistic = request.options.text("statistic");
  if (statistic == "mean") {
    chart->title = info.title + " against budget";
    chart->subtitle =
        several ? "Mean over " + std::to_string(comparison.traces.size()) + " traces, with its 95 % bootstrap interval"
                : "Mean over layers and steps";
    chart->series = lines(request, metric, &Distribution::mean, several);
    return chart;
  }
  std::string over = "heads";
  for (const auto& run : comparison.runs)
    if (const auto found = run.metrics.find(metric); found != run.metrics.end()) over = found->second.over;
  if (over == "runs") throw figure_error(request, "these results have means only", "statistic=mean draws them");
  const auto tail = tail_of(metric);
  const auto name = [](const Tail& one) {
    const std::string text = one.name;
    return text.substr(1) + (text == "p1" ? "st" : "th") + " percentile";
  };
  chart->title = info.title + ": the middle and the worst " + over;
  chart->subtitle = "Quantiles over " + over + ", each a mean over steps";
  chart->panels = {{"median", lines(request, metric, &Distribution::median, false)}};
  for (const auto& one : tail) chart->panels.push_back({name(one), lines(request, metric, one.value, false)});
  return chart;
}

// A level that holds at every budget: the full cache.
Series level(const std::string& name, double low, double high, double value) {
  Series series;
  series.name = name;
  series.x = {low, high}, series.y = {value, value};
  series.reference = series.line_only = true;
  return series;
}

std::vector<Series> published_lines(const FigureRequest& request, const ValueTable& table,
                                    const std::vector<std::string>& names) {
  std::vector<Series> all;
  std::vector<double> budgets;
  for (std::size_t row = 0; row < table.size(); ++row)
    if (!is_full_cache(table, row)) budgets.push_back(table.number(row, "budget"));
  std::sort(budgets.begin(), budgets.end());
  for (std::size_t style = 0; style < names.size(); ++style) {
    const ValueTable own = table.only("policy", {names[style]});
    Series series;
    series.name = names[style];
    series.style = static_cast<int>(style);
    std::vector<std::pair<double, double>> points;
    for (std::size_t row = 0; row < own.size(); ++row) {
      if (is_full_cache(own, row) && !budgets.empty()) {
        all.push_back(level(names[style], budgets.front(), budgets.back(), own.value(row)));
      } else if (std::isfinite(own.number(row, "budget"))) {
        points.emplace_back(own.number(row, "budget"), own.value(row));
      }
    }
    std::sort(points.begin(), points.end());
    for (const auto& [x, y] : points) {
      if (!series.x.empty() && series.x.back() == x)
        throw figure_error(request, "there are several values of " + names[style] + " at a budget of " + format_number(x),
                           "--where COLUMN=TEXT chooses; the table has several " +
                               std::string(own.distinct("task").size() > 1 ? "tasks" : "settings"));
      series.x.push_back(x), series.y.push_back(y);
    }
    if (!series.x.empty()) all.push_back(std::move(series));
  }
  return all;
}

std::unique_ptr<Figure> from_table(const FigureRequest& request) {
  ValueTable table = table_of(request);
  if (request.options.text("policy") != "all") table = table.only("policy", split(request.options.text("policy"), ';'));
  if (table.size() == 0) throw figure_error(request, "the table has none of these policies");
  if (table.distinct("budget").size() < 2) throw figure_error(request, "the table has no budgets to draw against");
  auto chart = std::make_unique<LineChart>();
  const std::string model = only_text(table, "model"), task = only_text(table, "task");
  chart->title = (task.empty() ? std::string("Published values") : task) + " against budget";
  chart->subtitle = only_text(table, "paper") + (model.empty() ? "" : ", " + model);
  const std::string unit = [&] {
    for (std::size_t row = 0; row < table.size(); ++row)
      if (const auto& text = table.text(row, "budget_unit"); text != "full") return text;
    return std::string();
  }();
  chart->x.label = unit.empty() ? "budget" : "budget (" + (unit == "compression_ratio" ? "share removed" : unit) + ")";
  chart->x.logarithmic = unit == "tokens";
  chart->y.label = value_label(table);
  chart->y.logarithmic = request.options.text("scale") == "log";
  for (const auto& text : table.distinct("budget"))
    if (!text.empty()) chart->x.ticks.push_back({std::stod(text), number_label(std::stod(text), 6)});
  std::sort(chart->x.ticks.begin(), chart->x.ticks.end(), [](const Tick& a, const Tick& b) { return a.value < b.value; });
  std::vector<std::string> names;
  for (const auto& name : table.distinct("policy"))
    if (name != "full") names.push_back(name);
  if (table.distinct("policy").size() > names.size()) names.emplace_back("full");
  const auto models = table.distinct("model");
  if (models.size() < 2) {
    chart->series = published_lines(request, table, names);
  } else {
    for (const auto& one : models) {
      const ValueTable own = table.only("model", {one});
      chart->panels.push_back({one.empty() ? "model not named" : one, published_lines(request, own, names)});
      chart->panels.back().y = chart->y;
      chart->panels.back().y->label.clear();
    }
  }
  return chart;
}

}  // namespace

const FigureKind& error_by_budget_kind() {
  static const FigureKind kind = {
      .name = "error_by_budget",
      .idea = "A metric against the budget, one line a policy, with the oracle's line and intervals over traces.",
      .needs = "results with several budgets, or a table of values with the columns policy, budget and value",
      .parameters = {policies_option(), metric_option(),
                     choice_option("statistic", "mean, or tail: median and the two worst percentiles side by side",
                                   {"mean", "tail"}, "mean"),
                     choice_option("scale", "of the y axis; auto: as the metric says", {"auto", "linear", "log"}, "auto"),
                     where_option()},
      .make =
          [](const FigureRequest& request) { return has_results(request) ? from_results(request) : from_table(request); },
  };
  return kind;
}

}  // namespace kvreplay::figure
