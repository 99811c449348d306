#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "core/base/text.h"
#include "core/report/numbers.h"
#include "gui/figure_kinds/selection.h"

namespace kvreplay::figure {
namespace {

struct Sample {
  std::string policy;
  double depth = 0;  // of the needle, share of the prompt
  double length = 0;
  double value = 0;
};

std::string length_name(double tokens) {
  return tokens >= 1000 ? number_label(tokens / 1024, 3) + "k" : number_label(tokens);
}

std::vector<Sample> samples_of_results(const FigureRequest& request, const std::string& metric) {
  const ReportSources& sources = results_of(request);
  const Comparison& comparison = sources.comparison;
  const std::string& label = request.options.text("span");
  std::vector<Sample> samples;
  const auto& group = chosen_budget(request);
  for (const auto& [cell, summary] : chosen_cells(request, group, metric))
    for (std::size_t i : cell->runs) {
      const RunSummary& run = comparison.runs[i];
      const Trace* trace = sources.trace_of(run.info);
      if (trace == nullptr)
        throw figure_error(request, "the trace " + printable(run.info.trace) + " is not there any more",
                           "name it beside the results: where the needle is stands in it");
      const auto span = std::find_if(trace->spans().begin(), trace->spans().end(),
                                     [&](const TextSpan& one) { return one.label == label; });
      if (span == trace->spans().end()) continue;
      const auto length = static_cast<double>(run.prompt_length);
      samples.push_back({cell->label, span->start / length, length, run.metrics.at(metric).distribution.mean});
    }
  if (samples.empty())
    throw figure_error(request, "none of the traces has a span \"" + printable(label) + "\"", "--span names another");
  return samples;
}

std::vector<Sample> samples_of_table(const FigureRequest& request, const ValueTable& table) {
  for (const char* column : {"depth", "context"})
    if (!table.has(column))
      throw figure_error(request, table.path() + " has no column \"" + column + "\"",
                         "it needs policy, depth (share of the text, in %), context (tokens) and value");
  std::vector<Sample> samples;
  const auto wanted = split(request.options.text("policy"), ';');
  for (std::size_t row = 0; row < table.size(); ++row)
    if (wanted[0] == "all" || std::find(wanted.begin(), wanted.end(), table.text(row, "policy")) != wanted.end())
      samples.push_back(
          {table.text(row, "policy"), table.number(row, "depth") / 100, table.number(row, "context"), table.value(row)});
  if (samples.empty()) throw figure_error(request, "the table has none of these policies");
  return samples;
}

// Samples to cells: lengths as they are (to the nearest 1/8 of a power of two), depths in equal bins.
void fill(const std::vector<Sample>& samples, int bins, HeatMap& map) {
  std::map<double, double> columns;  // rounded length: the shortest in it, for its name
  std::vector<std::string> policies;
  const auto rounded = [](double length) { return std::round(std::log2(std::max(1.0, length)) * 8); };
  for (const auto& sample : samples) {
    const auto [at, fresh] = columns.try_emplace(rounded(sample.length), sample.length);
    if (!fresh) at->second = std::min(at->second, sample.length);
    if (std::find(policies.begin(), policies.end(), sample.policy) == policies.end()) policies.push_back(sample.policy);
  }
  map.rows = bins, map.columns = static_cast<std::int64_t>(columns.size());
  for (int bin = 0; bin < bins; ++bin)
    map.row_names.push_back(number_label(100.0 * bin / bins) + "–" + number_label(100.0 * (bin + 1) / bins) + " %");
  for (const auto& [key, length] : columns) map.column_names.push_back(length_name(length));
  for (const auto& policy : policies) {
    const auto cells = static_cast<std::size_t>(map.rows * map.columns);
    std::vector<double> sum(cells, 0.0), count(cells, 0.0);
    for (const auto& sample : samples) {
      if (sample.policy != policy || std::isnan(sample.value)) continue;
      const auto row = std::clamp(static_cast<std::int64_t>(sample.depth * bins), std::int64_t{0}, map.rows - 1);
      const auto column = std::distance(columns.begin(), columns.find(rounded(sample.length)));
      sum[static_cast<std::size_t>(row * map.columns + column)] += sample.value;
      ++count[static_cast<std::size_t>(row * map.columns + column)];
    }
    HeatMap::Panel panel{policy, {}};
    for (std::size_t i = 0; i < cells; ++i)
      panel.values.push_back(count[i] > 0 ? static_cast<float>(sum[i] / count[i]) : std::numeric_limits<float>::quiet_NaN());
    map.panels.push_back(std::move(panel));
  }
}

std::unique_ptr<Figure> make(const FigureRequest& request) {
  auto map = std::make_unique<HeatMap>();
  const int bins = request.options.integer("bins");
  map->row_label = "depth", map->column_label = "prompt (tokens)";
  map->numbers = true;
  map->color_map = ColorMap::cividis;
  if (has_results(request)) {
    // What a needle asks is whether it survives.
    const auto& metrics = results_of(request).comparison.metrics;
    const bool recall = request.options.text("metric") == "auto" &&
                        std::find(metrics.begin(), metrics.end(), "evidence_recall") != metrics.end();
    const std::string metric = recall ? "evidence_recall" : chosen_metric(request);
    const MetricInfo& info = metric_info(metric);
    map->title = info.title + " by depth and length";
    map->subtitle =
        "Where \"" + request.options.text("span") + "\" begins in the prompt; budget " + chosen_budget(request).text;
    map->value_label = value_label(info);
    if (metric == "evidence_recall") map->minimum = 0, map->maximum = 1;
    fill(samples_of_results(request, metric), bins, *map);
    return map;
  }
  const ValueTable table = table_of(request);
  map->title = "By depth and length";
  map->subtitle = only_text(table, "paper");
  map->value_label = value_label(table);
  fill(samples_of_table(request, table), bins, *map);
  return map;
}

}  // namespace

const FigureKind& needle_grid_kind() {
  static const FigureKind kind = {
      .name = "needle_grid",
      .idea = "Depth of a needle × length of the prompt, one grid a policy: where a fact is lost.",
      .needs =
          "results on several traces with a marked span, and those traces; or a table of values with the columns policy, "
          "depth, context and value",
      .parameters = {policies_option(), metric_option(), budget_option(),
                     text_option("span", "label of the marked span", "needle"),
                     integer_option("bins", "rows: equal parts of the depth", 1, 5), where_option()},
      .make = make,
  };
  return kind;
}

}  // namespace kvreplay::figure
