#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

#include "core/base/text.h"
#include "core/report/numbers.h"
#include "gui/figure_kinds/selection.h"

namespace kvreplay::figure {
namespace {

constexpr double gigabyte = 1e9;

enum class Quantity { time, memory };

// By the unit; other values are no cost.
std::optional<std::pair<Quantity, double>> quantity_of(const std::string& unit) {
  if (unit == "s") return {{Quantity::time, 1e3}};
  if (unit == "ms") return {{Quantity::time, 1}};
  if (unit == "GB") return {{Quantity::memory, 1}};
  if (unit == "GiB") return {{Quantity::memory, 1.073741824}};
  if (unit == "MB") return {{Quantity::memory, 1e-3}};
  if (unit == "MiB") return {{Quantity::memory, 1.048576e-3}};
  if (unit == "bytes") return {{Quantity::memory, 1e-9}};
  return std::nullopt;
}

struct Costs {
  std::vector<Series> time, memory;  // ms a token; GB
};

Series& line_of(std::vector<Series>& all, const std::string& name, int style) {
  for (auto& series : all)
    if (series.name == name) return series;
  all.emplace_back();
  all.back().name = name, all.back().style = style;
  return all.back();
}

void sort_points(Series& series) {
  std::vector<std::pair<double, double>> points;
  for (std::size_t i = 0; i < series.x.size(); ++i) points.emplace_back(series.x[i], series.y[i]);
  std::sort(points.begin(), points.end());
  for (std::size_t i = 0; i < points.size(); ++i) std::tie(series.x[i], series.y[i]) = points[i];
}

Costs costs_of_table(const FigureRequest& request, const ValueTable& table) {
  Costs costs;
  const auto names = table.distinct("policy");
  for (std::size_t row = 0; row < table.size(); ++row) {
    const auto quantity = quantity_of(table.text(row, "unit"));
    const double context = table.number(row, "context");
    if (!quantity || !std::isfinite(context)) continue;
    const auto style = std::find(names.begin(), names.end(), table.text(row, "policy")) - names.begin();
    Series& series = line_of(quantity->first == Quantity::time ? costs.time : costs.memory, table.text(row, "policy"),
                             static_cast<int>(style));
    if (std::find(series.x.begin(), series.x.end(), context) != series.x.end())
      throw figure_error(request,
                         "there are several values of " + series.name + " at a context of " + format_number(context),
                         "--where COLUMN=TEXT chooses");
    series.x.push_back(context);
    series.y.push_back(table.value(row) * quantity->second);
  }
  if (costs.time.empty() && costs.memory.empty())
    throw figure_error(request, table.path() + " has no times or sizes against a context",
                       "it needs the columns context and unit (s, ms, GB, GiB, MB, MiB or bytes)");
  return costs;
}

// What a cache with these kept sets holds, against the length of the prompt.
Costs costs_of_results(const FigureRequest& request) {
  const Comparison& comparison = results_of(request).comparison;
  const BudgetGroup& group = chosen_budget(request);
  Costs costs;
  const auto labels = chosen_policies(request);
  line_of(costs.memory, "full cache", -1).reference = true;
  for (const auto& cell : group.cells) {
    if (std::find(labels.begin(), labels.end(), cell.label) == labels.end()) continue;
    use(request, cell);
    for (std::size_t i : cell.runs) {
      const RunSummary& run = comparison.runs[i];
      const auto context = static_cast<double>(run.prompt_length);
      Series& series = line_of(costs.memory, cell.label, series_of(comparison, cell.label).style);
      if (std::find(series.x.begin(), series.x.end(), context) != series.x.end()) continue;
      series.x.push_back(context);
      series.y.push_back(static_cast<double>(run.info.cache_bytes) / gigabyte);
      Series& whole = costs.memory.front();
      if (std::find(whole.x.begin(), whole.x.end(), context) != whole.x.end()) continue;
      whole.x.push_back(context);
      whole.y.push_back(static_cast<double>(run.info.full_cache_bytes) / gigabyte);
    }
  }
  if (costs.memory.front().x.size() < 2)
    throw figure_error(request, "all traces of these results have prompts of one length",
                       "name results of traces of several lengths, or a table of values with the column context");
  return costs;
}

// Lines of the same bytes would hide each other: one line with all their names.
void merge_equal(std::vector<Series>& all) {
  std::vector<Series> merged;
  std::vector<std::vector<std::string>> names;
  for (auto& series : all) {
    const auto same = std::find_if(merged.begin(), merged.end(), [&](const Series& one) {
      return one.reference == series.reference && one.x == series.x && one.y == series.y;
    });
    if (same == merged.end()) {
      names.push_back({series.name});
      merged.push_back(std::move(series));
    } else {
      names[static_cast<std::size_t>(same - merged.begin())].push_back(series.name);
    }
  }
  for (std::size_t i = 0; i < merged.size(); ++i)
    merged[i].name =
        names[i].size() <= 2 ? join(names[i], ", ") : names[i][0] + " and " + std::to_string(names[i].size() - 1) + " more";
  all = std::move(merged);
}

// The least time that a token can take: every byte of the weights and of what is left of the cache is read once.
Series floor_line(const FigureRequest& request, const std::string& name, double bandwidth, double kept_tokens,
                  const std::vector<double>& contexts) {
  Series series;
  series.name = name;
  series.reference = series.line_only = true;
  const double weights = request.options.real("weights"), each = request.options.real("bytes_per_token");
  for (double context : contexts) {
    series.x.push_back(context);
    series.y.push_back((weights * gigabyte + each * std::min(context, kept_tokens)) / (bandwidth * gigabyte) * 1e3);
  }
  return series;
}

void add_floor(const FigureRequest& request, Costs& costs) {
  const double bandwidth = request.options.real("bandwidth");
  if (bandwidth <= 0) return;
  std::vector<double> contexts;
  for (const auto* lines : {&costs.time, &costs.memory})
    for (const auto& series : *lines) contexts.insert(contexts.end(), series.x.begin(), series.x.end());
  std::sort(contexts.begin(), contexts.end());
  contexts.erase(std::unique(contexts.begin(), contexts.end()), contexts.end());
  costs.time.push_back(floor_line(request, "floor, full cache", bandwidth, 1e18, contexts));
  const int kept = request.options.integer("kept");
  if (kept > 0)
    costs.time.push_back(floor_line(request, "floor, " + report_count(kept) + " tokens kept", bandwidth, kept, contexts));
}

Axis cost_axis(const std::string& label, bool logarithmic) {
  Axis axis;
  axis.label = label;
  axis.logarithmic = logarithmic;
  return axis;
}

std::unique_ptr<Figure> make(const FigureRequest& request) {
  const bool results = has_results(request);
  const ValueTable table = results ? ValueTable() : table_of(request);
  Costs costs = results ? costs_of_results(request) : costs_of_table(request, table);
  add_floor(request, costs);
  auto chart = std::make_unique<LineChart>();
  for (auto* lines : {&costs.time, &costs.memory})
    for (auto& series : *lines) sort_points(series);
  const std::string& scale = request.options.text("scale");
  // A floor lies far below on a linear axis.
  const bool logarithmic = scale == "log" || (scale == "auto" && request.options.real("bandwidth") > 0);
  if (results) merge_equal(costs.memory);
  const Axis time = cost_axis("time per generated token (ms)", logarithmic);
  const Axis memory = cost_axis(results ? "cache (GB)" : "peak memory (GB)", logarithmic);
  const bool both = !costs.time.empty() && !costs.memory.empty();
  chart->title = both                 ? "Time and memory against context"
                 : costs.time.empty() ? "Memory against context"
                                      : "Time against context";
  const std::string model = results ? "" : only_text(table, "model");
  chart->subtitle = results ? "Budget " + chosen_budget(request).text + "; keys and values that a real cache has to hold"
                            : only_text(table, "paper") + (model.empty() ? "" : ", " + model);
  if (request.options.real("bandwidth") > 0)
    chart->subtitle +=
        "; floor: weights and cache read once at " + format_number(request.options.real("bandwidth")) + " GB/s";
  chart->x = cost_axis("context (tokens)", true);
  std::vector<double> contexts;
  for (const auto* lines : {&costs.time, &costs.memory})
    for (const auto& series : *lines)
      for (double x : series.x)
        if (std::find(contexts.begin(), contexts.end(), x) == contexts.end()) contexts.push_back(x);
  std::sort(contexts.begin(), contexts.end());
  for (double context : contexts)
    chart->x.ticks.push_back({context, context >= 1024 && std::fmod(context, 1024) == 0
                                           ? report_count(std::llround(context / 1024)) + "k"
                                           : report_count(std::llround(context))});
  if (both) {
    chart->panels = {{time.label, costs.time, time}, {memory.label, costs.memory, memory}};
  } else {
    chart->y = costs.time.empty() ? memory : time;
    chart->series = costs.time.empty() ? costs.memory : costs.time;
  }
  return chart;
}

Parameter real_option(const std::string& key, const std::string& doc, const std::string& otherwise) {
  Parameter parameter = text_option(key, doc, otherwise);
  parameter.type = ParameterType::real;
  parameter.minimum = 0;
  return parameter;
}

}  // namespace

const FigureKind& cost_by_context_kind() {
  static const FigureKind kind = {
      .name = "cost_by_context",
      .idea = "Time a token and memory against the length of the context, with the floor that memory bandwidth sets.",
      .needs =
          "a table of values with the columns context and unit (s, ms, GB, ...); or results of traces of several lengths, "
          "for the cache's bytes",
      .parameters = {policies_option(), budget_option(),
                     real_option("bandwidth", "of the memory, GB/s, for the floor (an H100 SXM: 3350); 0: no floor", "0"),
                     real_option("weights", "GB of weights that every token reads (8 B parameters in 16 bit: 16)", "0"),
                     real_option("bytes_per_token", "of the cache, all layers (Llama-3.1-8B in 16 bit: 131072)", "0"),
                     integer_option("kept", "tokens that an evicted cache holds, for its floor; 0: only the full cache's", 0,
                                    0),
                     choice_option("scale", "of the y axes; auto: log with a floor", {"auto", "linear", "log"}, "auto"),
                     where_option()},
      .make = make,
  };
  return kind;
}

}  // namespace kvreplay::figure
