#include "gui/figure_kinds/selection.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/report/numbers.h"
#include "core/report/policy_label.h"

namespace kvreplay::figure {
namespace {

// A policy that evicts nothing at any budget (the full cache) is a flat line at no error: pictures need not show it.
bool evicts(const Comparison& comparison, const std::string& label) {
  return std::any_of(comparison.runs.begin(), comparison.runs.end(),
                     [&](const RunSummary& run) { return run.label == label && run.evicted > 0; });
}

std::string full_text(const std::string& policy) {
  try {
    return parse_policy(policy).text();
  } catch (const Error&) {
    return policy;  // of another program, or a label with what tells runs apart
  }
}

std::string label_of(const FigureRequest& request, const std::string& key, const std::string& name) {
  const Comparison& comparison = results_of(request).comparison;
  const auto& labels = comparison.labels;
  if (std::find(labels.begin(), labels.end(), name) != labels.end()) return name;
  const std::string text = full_text(name);
  std::vector<std::string> of_preset;
  for (const auto& run : comparison.runs) {
    if (run.info.policy == text) return run.label;
    if (run.info.preset == name && std::find(of_preset.begin(), of_preset.end(), run.label) == of_preset.end())
      of_preset.push_back(run.label);
  }
  if (of_preset.size() == 1) return of_preset[0];
  const std::string guess = closest(name, labels);
  throw figure_error(request, "no run has the " + key + " \"" + printable(name) + "\"",
                     !of_preset.empty() ? "it is one of " + join(of_preset, ", ", " or ")
                     : guess.empty()    ? "there are " + join(labels, ", ", " and ")
                                        : "did you mean " + guess + "?");
}

// Decimal, all of it; nullopt otherwise.
std::optional<std::int64_t> whole_number(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

const BudgetGroup& nearest_budget(const Comparison& comparison, double ratio) {
  return *std::min_element(comparison.budgets.begin(), comparison.budgets.end(), [&](const auto& a, const auto& b) {
    return std::abs(a.ratio - ratio) < std::abs(b.ratio - ratio);
  });
}

std::string budgets_text(const Comparison& comparison) {
  std::vector<std::string> all;
  for (const auto& group : comparison.budgets)
    all.push_back(std::to_string(group.budget) + " (" + report_percent(group.ratio) + ")");
  return join(all, ", ", " and ");
}

}  // namespace

Parameter text_option(std::string key, std::string doc, std::string otherwise) {
  Parameter parameter;
  parameter.key = std::move(key);
  parameter.type = ParameterType::text;
  parameter.doc = std::move(doc);
  parameter.defaults = {{"", std::move(otherwise)}};
  return parameter;
}

Parameter choice_option(std::string key, std::string doc, std::vector<std::string> choices, std::string otherwise) {
  Parameter parameter = text_option(std::move(key), std::move(doc), std::move(otherwise));
  parameter.type = ParameterType::choice;
  parameter.choices = std::move(choices);
  return parameter;
}

Parameter integer_option(std::string key, std::string doc, int minimum, int otherwise) {
  Parameter parameter = text_option(std::move(key), std::move(doc), std::to_string(otherwise));
  parameter.type = ParameterType::integer;
  parameter.minimum = minimum;
  return parameter;
}

Parameter policies_option() { return text_option("policy", "policies; all: those that evict something, and bounds", "all"); }
Parameter policy_option() { return text_option("policy", "the policy; auto: the one with the least error", "auto"); }
Parameter minus_option() {
  return text_option("minus", "a policy that is subtracted: the map shows differences, with a diverging scale", "none");
}
Parameter metric_option() { return text_option("metric", "name of a metric; auto: the leading one that fits", "auto"); }
Parameter budget_option() {
  return text_option("budget", "in tokens (410) or as a share of the prompt (10%); auto: nearest a tenth", "auto");
}
Parameter where_option() {
  return text_option("where", "rows of a table of values: COLUMN=TEXT, several apply together", "all");
}
Parameter best_option() {
  return choice_option("best", "whether more or less is better; auto: by the metric or the unit",
                       {"auto", "higher", "lower"}, "auto");
}

Error figure_error(const FigureRequest& request, const std::string& what, const std::string& remedy) {
  return Error("figure " + request.kind.name, what, remedy);
}

bool has_results(const FigureRequest& request) { return request.sources.results != nullptr; }

void refuse_sources(const FigureRequest& request) {
  const bool nothing = !has_results(request) && request.sources.tables.empty();
  throw figure_error(request, nothing ? "no file is named" : "cannot be made from these files",
                     "it needs " + request.kind.needs);
}

const ReportSources& results_of(const FigureRequest& request) {
  if (!has_results(request)) refuse_sources(request);
  return *request.sources.results;
}

ValueTable table_of(const FigureRequest& request) {
  if (request.sources.tables.empty()) refuse_sources(request);
  return ValueTable::joined(request.sources.tables).where(request.options.text("where"));
}

std::vector<std::string> chosen_policies(const FigureRequest& request) {
  const Comparison& comparison = results_of(request).comparison;
  std::vector<std::string> chosen;
  if (request.options.text("policy") == "all") {
    for (const auto& label : comparison.labels)
      if (evicts(comparison, label)) chosen.push_back(label);
    if (chosen.empty()) throw figure_error(request, "no run evicted anything", "replay with smaller budgets");
    return chosen;
  }
  for (const auto& name : split(request.options.text("policy"), ';')) chosen.push_back(label_of(request, "policy", name));
  return chosen;
}

std::string chosen_metric(const FigureRequest& request, bool by_head) {
  const ReportSources& sources = results_of(request);
  const Comparison& comparison = sources.comparison;
  const auto fits = [&](const std::string& name) {
    return std::any_of(comparison.runs.begin(), comparison.runs.end(), [&](const RunSummary& run) {
      const auto found = run.metrics.find(name);
      return found != run.metrics.end() && found->second.distribution.count > 0 &&
             (!by_head || !found->second.by_head.empty());
    });
  };
  const std::string& asked = request.options.text("metric");
  if (asked == "auto") {
    if (!by_head && !sources.metric.empty()) return sources.metric;
    for (const auto& name : comparison.metrics)
      if (fits(name)) return name;
    throw figure_error(
        request, by_head ? "the runs have no metric with a value for each head" : "the runs have no metric",
        "results of `replay --summary-only` have no such values, and a trace without generated tokens has none");
  }
  if (std::find(comparison.metrics.begin(), comparison.metrics.end(), asked) == comparison.metrics.end()) {
    const std::string guess = closest(asked, comparison.metrics);
    throw figure_error(
        request, "no run has the metric \"" + printable(asked) + "\"",
        guess.empty() ? "there are " + join(comparison.metrics, ", ", " and ") : "did you mean " + guess + "?");
  }
  if (!fits(asked))
    throw figure_error(request, asked + (by_head ? " has no value for each head" : " has no values in these runs"));
  return asked;
}

const BudgetGroup& chosen_budget(const FigureRequest& request) {
  const Comparison& comparison = results_of(request).comparison;
  const std::string& asked = request.options.text("budget");
  if (asked == "auto") return nearest_budget(comparison, 0.1);
  if (!asked.empty() && asked.back() == '%') {
    double percent = 0;
    const auto [end, error] = std::from_chars(asked.data(), asked.data() + asked.size() - 1, percent);
    if (error == std::errc{} && end == asked.data() + asked.size() - 1) {
      const BudgetGroup& group = nearest_budget(comparison, percent / 100);
      // ⌊P·x/100⌋ tokens are less than one token from x.
      if (std::abs(group.ratio - percent / 100) < 6e-4) return group;
    }
  } else if (const auto tokens = whole_number(asked)) {
    if (const BudgetGroup* group = comparison.find_budget(*tokens)) return *group;
  }
  throw figure_error(request, "no run has the budget \"" + printable(asked) + "\"", "there are " + budgets_text(comparison));
}

ChosenMetric chosen_metric_at_budget(const FigureRequest& request, bool by_head) {
  const Comparison& comparison = results_of(request).comparison;
  std::string metric = chosen_metric(request, by_head);
  const MetricInfo& info = metric_info(metric);
  return {comparison, std::move(metric), info, chosen_budget(request)};
}

void use(const FigureRequest& request, const Cell& cell) {
  for (std::size_t i : cell.runs) {
    const RunSummary* run = &request.sources.results->comparison.runs[i];
    if (std::find(request.used.begin(), request.used.end(), run) == request.used.end()) request.used.push_back(run);
  }
}

std::vector<ChosenCell> chosen_cells(const FigureRequest& request, const BudgetGroup& group, const std::string& metric) {
  const std::vector<std::string> labels = chosen_policies(request);
  std::vector<ChosenCell> chosen;
  for (const auto& cell : group.cells) {
    const auto found = cell.metrics.find(metric);
    if (found == cell.metrics.end() || std::find(labels.begin(), labels.end(), cell.label) == labels.end()) continue;
    chosen.push_back({&cell, &found->second});
    use(request, cell);
  }
  if (chosen.empty()) throw figure_error(request, "no chosen run has " + metric + " at " + group.text);
  return chosen;
}

const RunSummary& chosen_run(const FigureRequest& request, const std::string& key) {
  const ReportSources& sources = results_of(request);
  const Comparison& comparison = sources.comparison;
  const BudgetGroup& group = chosen_budget(request);
  const std::string& asked = request.options.text(key);
  const Cell* cell = nullptr;
  if (asked == "auto") {
    if (!sources.metric.empty()) cell = best_cell(comparison, group, sources.metric);
    for (const auto& one : group.cells)
      if (cell == nullptr && evicts(comparison, one.label)) cell = &one;
  } else {
    const std::string label = label_of(request, key, asked);
    for (const auto& one : group.cells)
      if (one.label == label) cell = &one;
  }
  if (cell == nullptr)
    throw figure_error(request,
                       asked == "auto" ? "no run evicted anything" : "\"" + asked + "\" has no run at " + group.text,
                       "--budget and --policy choose another");
  const RunSummary& run = comparison.runs[cell->runs.front()];
  if (std::find(request.used.begin(), request.used.end(), &run) == request.used.end()) request.used.push_back(&run);
  return run;
}

int layer_number(const FigureRequest& request, const RunSummary& run, std::int64_t index) {
  const Trace* trace = results_of(request).trace_of(run.info);
  const auto at = static_cast<std::size_t>(index);
  return trace != nullptr && at < trace->layers().size() ? trace->layers()[at] : static_cast<int>(index);
}

std::vector<std::int64_t> chosen_layers(const FigureRequest& request, const RunSummary& run) {
  std::vector<std::int64_t> chosen;
  const std::string& asked = request.options.text("layer");
  if (asked == "all") {
    for (std::int64_t i = 0; i < run.layers; ++i) chosen.push_back(i);
    return chosen;
  }
  for (const auto& part : split(asked, ';')) {
    const auto wanted = whole_number(part);
    std::int64_t found = -1;
    for (std::int64_t i = 0; wanted && i < run.layers; ++i)
      if (layer_number(request, run, i) == *wanted) found = i;
    if (found < 0)
      throw figure_error(request, "there is no layer \"" + printable(part) + "\"",
                         "layers are " + std::to_string(layer_number(request, run, 0)) + " to " +
                             std::to_string(layer_number(request, run, run.layers - 1)) + ", or all");
    chosen.push_back(found);
  }
  return chosen;
}

std::pair<std::int64_t, std::int64_t> chosen_tokens(const FigureRequest& request, std::int64_t count) {
  const std::string& asked = request.options.text("tokens");
  if (asked == "all" || asked == "auto") return {0, count};
  const auto parts = split(asked, ':');
  const auto begin = whole_number(parts[0]), end = parts.size() == 2 ? whole_number(parts[1]) : std::nullopt;
  if (!begin || !end || *begin < 0 || *end > count || *begin >= *end)
    throw figure_error(request, "\"" + printable(asked) + "\" is no stretch of tokens",
                       "write BEGIN:END, the end not included, within 0:" + std::to_string(count));
  return {*begin, *end};
}

std::vector<ColumnMark> marks_of(const FigureRequest& request, const RunSummary& run, std::int64_t begin, std::int64_t end) {
  std::vector<ColumnMark> marks;
  const auto add = [&](std::int64_t from, std::int64_t to, const std::string& label) {
    if (std::max(from, begin) < std::min(to, end))
      marks.push_back({std::max(from, begin) - begin, std::min(to, end) - begin, label});
  };
  if (const Trace* trace = results_of(request).trace_of(run.info))
    for (const auto& span : trace->spans()) add(span.start, span.end, printable(span.label));
  if (marks.empty()) add(run.prompt_length, run.tokens, "generated");
  return marks;
}

Series series_of(const Comparison& comparison, const std::string& label) {
  Series series;
  series.name = label;
  int style = 0, bound_style = 0;
  for (const auto& one : comparison.labels) {
    const auto run = std::find_if(comparison.runs.begin(), comparison.runs.end(),
                                  [&](const RunSummary& candidate) { return candidate.label == one; });
    if (one == label) {
      series.reference = run->bound;
      series.style = run->bound ? bound_style : style;
      break;
    }
    if (evicts(comparison, one)) ++(run->bound ? bound_style : style);
  }
  return series;
}

std::string value_label(const MetricInfo& metric) {
  return metric.unit.empty() ? metric.title : metric.title + " (" + metric.unit + ")";
}

std::string metric_value_label(const std::string& metric) { return value_label(metric_info(metric)); }

std::string mean_over(const Comparison& comparison, const std::string& what) {
  const auto traces = comparison.traces.size();
  return "mean over " + what + (traces > 1 ? " and " + std::to_string(traces) + " traces" : "");
}

std::string only_text(const ValueTable& table, const std::string& column) {
  const auto all = table.distinct(column);
  return all.size() == 1 ? all[0] : "";
}

std::string value_label(const ValueTable& table) {
  const std::string task = only_text(table, "task"), metric = only_text(table, "metric"), unit = only_text(table, "unit");
  std::string label = metric.empty() ? "value" : metric;
  if (!task.empty() && task != "generation") label = task + ", " + label;
  return unit.empty() || unit == label ? label : label + " (" + unit + ")";
}

bool higher_is_better(const FigureRequest& request, const ValueTable& table) {
  const std::string& asked = request.options.text("best");
  if (asked != "auto") return asked == "higher";
  const std::string metric = only_text(table, "metric"), unit = only_text(table, "unit");
  const auto known = metric_order();
  if (std::find(known.begin(), known.end(), metric) != known.end()) return kvreplay::higher_is_better(metric_info(metric));
  for (const char* less : {"s", "ms", "GB", "GiB", "MB", "MiB", "bytes", "nats", "perplexity"})
    if (unit == less) return false;
  return true;
}

bool is_full_cache(const ValueTable& table, std::size_t row) {
  return table.text(row, "budget_unit") == "full" || table.text(row, "policy") == "full";
}

}  // namespace kvreplay::figure
