#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "core/base/text.h"
#include "core/report/numbers.h"
#include "gui/figure_kinds/selection.h"

namespace kvreplay::figure {
namespace {

std::optional<double> number_of(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// The parameters of a run's policy string; empty where this program does not know the policy.
std::map<std::string, std::string> parameters_of(const RunSummary& run) {
  try {
    return parse_policy(run.info.policy).values.all();
  } catch (const Error&) {
    return {};
  }
}

// A policy without the value of one parameter: what has to be the same along a line.
std::string others(const RunSummary& run, const std::string& parameter) {
  std::string text = run.info.preset;
  for (const auto& [key, value] : parameters_of(run))
    if (key != parameter) text += "," + key + "=" + value;
  return text;
}

// The parameter that has several values while all others are the same.
std::string chosen_parameter(const FigureRequest& request, const std::vector<const RunSummary*>& runs) {
  const std::string& asked = request.options.text("parameter");
  std::map<std::string, std::map<std::string, std::set<std::string>>> values;  // by parameter and by everything else
  for (const RunSummary* run : runs)
    for (const auto& [key, value] : parameters_of(*run))
      if (number_of(value)) values[key][others(*run, key)].insert(value);
  std::vector<std::string> varying;
  for (const auto& [key, settings] : values)
    if (std::any_of(settings.begin(), settings.end(), [](const auto& setting) { return setting.second.size() > 1; }))
      varying.push_back(key);
  if (asked != "auto") {
    if (std::find(varying.begin(), varying.end(), asked) != varying.end()) return asked;
    throw figure_error(request, "no policy was run with several values of \"" + printable(asked) + "\"",
                       varying.empty() ? "replay one with several, as --policy restkv:alpha=0.1 --policy restkv:alpha=0.5"
                                       : "several values have " + join(varying, ", ", " and "));
  }
  if (varying.empty())
    throw figure_error(request, "no policy was run with several values of a parameter",
                       "replay one with several, as --policy restkv:alpha=0.1 --policy restkv:alpha=0.5");
  if (varying.size() > 1)
    throw figure_error(request, "several parameters have several values: " + join(varying, ", ", " and "),
                       "--parameter says which one is drawn");
  return varying[0];
}

void mark_default(const std::string& preset, const std::string& parameter, LineChart& chart) {
  try {
    const auto values = parse_policy(preset).values;
    if (!values.has(parameter)) return;
    if (const auto value = number_of(values.text(parameter))) chart.x_marks.push_back({*value, "default"});
  } catch (const Error&) {
  }
}

std::unique_ptr<Figure> from_results(const FigureRequest& request) {
  const Comparison& comparison = results_of(request).comparison;
  const std::string metric = chosen_metric(request);
  const MetricInfo& info = metric_info(metric);
  std::vector<const RunSummary*> runs;
  const auto labels = chosen_policies(request);
  for (const auto& run : comparison.runs)
    if (std::find(labels.begin(), labels.end(), run.label) != labels.end()) runs.push_back(&run);
  const std::string parameter = chosen_parameter(request, runs);

  // One line for each budget and each setting of everything else that has several values of the parameter.
  struct Line {
    std::string name, preset;
    std::map<double, std::pair<double, Interval>> points;
  };
  std::map<std::string, Line> lines;
  std::vector<std::string> order;
  std::set<std::string> presets;
  for (const auto& group : comparison.budgets)
    for (const auto& [cell, summary] : chosen_cells(request, group, metric)) {
      const RunSummary& run = comparison.runs[cell->runs.front()];
      const auto all = parameters_of(run);
      const auto found = all.find(parameter);
      const auto value = found == all.end() ? std::nullopt : number_of(found->second);
      if (!value) continue;
      const std::string key = others(run, parameter) + " at " + group.text;
      if (!lines.contains(key)) order.push_back(key);
      Line& line = lines[key];
      line.preset = run.info.preset;
      line.name = report_count(group.budget) + " tokens (" + report_percent(group.ratio) + ")";
      line.points[*value] = {summary->distribution.mean, summary->interval};
      presets.insert(run.info.preset);
    }
  auto chart = std::make_unique<LineChart>();
  chart->title = info.title + " against " + parameter;
  chart->subtitle = join({presets.begin(), presets.end()}, ", ", " and ") + "; " +
                    mean_over(comparison, "layers and steps") + "; one line a budget";
  chart->x.label = parameter;
  chart->x.logarithmic = request.options.text("x_scale") == "log";
  chart->y.label = value_label(info);
  chart->y.logarithmic = request.options.text("scale") == "log";
  for (const auto& key : order) {
    const Line& line = lines[key];
    if (line.points.size() < 2) continue;
    Series series;
    series.name = presets.size() > 1 ? line.preset + ", " + line.name : line.name;
    for (const auto& [x, point] : line.points) {
      series.x.push_back(x), series.y.push_back(point.first);
      if (comparison.traces.size() < 2) continue;
      series.low.push_back(point.second.low), series.high.push_back(point.second.high);
    }
    chart->series.push_back(std::move(series));
  }
  if (chart->series.empty())
    throw figure_error(request, "nowhere does " + parameter + " have several values while everything else is the same");
  if (presets.size() == 1) mark_default(*presets.begin(), parameter, *chart);
  return chart;
}

// Settings written as "alpha=0.3"; those that are no number become levels.
std::unique_ptr<Figure> from_table(const FigureRequest& request) {
  ValueTable table = table_of(request);
  std::string parameter = request.options.text("parameter");
  std::vector<std::string> there;
  for (const auto& setting : table.distinct("setting")) {
    const auto equals = setting.find('=');
    if (equals == std::string::npos || !number_of(setting.substr(equals + 1))) continue;
    const std::string key = setting.substr(0, equals);
    if (std::find(there.begin(), there.end(), key) == there.end()) there.push_back(key);
  }
  if (parameter == "auto" && there.size() == 1) parameter = there[0];
  if (std::find(there.begin(), there.end(), parameter) == there.end())
    throw figure_error(
        request,
        parameter == "auto" ? "the table has not exactly one parameter in its column \"setting\""
                            : "the table has no settings of \"" + printable(parameter) + "\"",
        there.empty() ? "settings are written as alpha=0.3" : "--parameter is one of " + join(there, ", ", " or "));
  Series line;
  std::map<double, double> points;
  std::string table_name;
  for (std::size_t row = 0; row < table.size(); ++row) {
    const std::string& setting = table.text(row, "setting");
    const auto equals = setting.find('=');
    if (equals == std::string::npos || setting.substr(0, equals) != parameter) continue;
    if (const auto x = number_of(setting.substr(equals + 1)))
      points[*x] = table.value(row), table_name = table.text(row, "table");
  }
  if (points.size() < 2) throw figure_error(request, "the table has a single value of " + parameter);
  auto chart = std::make_unique<LineChart>();
  chart->title = value_label(table) + " against " + parameter;
  chart->subtitle =
      only_text(table, "paper") + (only_text(table, "policy").empty() ? "" : ", " + only_text(table, "policy"));
  chart->x.label = parameter;
  chart->x.logarithmic = request.options.text("x_scale") == "log";
  chart->y.label = value_label(table);
  line.name = parameter;
  for (const auto& [x, y] : points) line.x.push_back(x), line.y.push_back(y);
  chart->series.push_back(std::move(line));
  // What the same part of the paper compares it with.
  for (std::size_t row = 0; row < table.size(); ++row) {
    const std::string& setting = table.text(row, "setting");
    if (setting.find('=') != std::string::npos || table.text(row, "table") != table_name) continue;
    Series level;
    level.name = setting;
    level.x = {points.begin()->first, points.rbegin()->first};
    level.y = {table.value(row), table.value(row)};
    level.reference = level.line_only = true;
    chart->series.push_back(std::move(level));
  }
  if (chart->series.size() == 1) chart->series[0].name.clear();
  if (!only_text(table, "policy").empty()) mark_default(only_text(table, "policy"), parameter, *chart);
  return chart;
}

}  // namespace

const FigureKind& sensitivity_kind() {
  static const FigureKind kind = {
      .name = "sensitivity",
      .idea = "A metric against one parameter of a policy, one line a budget, its default marked.",
      .needs =
          "results in which a policy was run with several values of a parameter, or a table of values whose settings are "
          "written as alpha=0.3",
      .parameters = {text_option("parameter", "key of the parameter; auto: the only one with several values", "auto"),
                     policies_option(), metric_option(),
                     choice_option("scale", "of the y axis", {"linear", "log"}, "linear"),
                     choice_option("x_scale", "of the x axis", {"linear", "log"}, "linear"), where_option()},
      .make =
          [](const FigureRequest& request) { return has_results(request) ? from_results(request) : from_table(request); },
  };
  return kind;
}

}  // namespace kvreplay::figure
