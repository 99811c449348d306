// The report for programs: CSV and JSON.
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/csv.h"
#include "core/base/text.h"
#include "core/report/metric_info.h"
#include "trace_tools/report/formats.h"

namespace kvreplay::cli {
namespace {

using nlohmann::json;

std::string field(double value) { return std::isnan(value) ? "" : format_number(value); }

json number(double value) { return std::isfinite(value) ? json(value) : json(nullptr); }

json distribution_json(const Distribution& values) {
  return {{"count", values.count},     {"mean", number(values.mean)},       {"median", number(values.median)},
          {"p1", number(values.p1)},   {"p5", number(values.p5)},           {"p95", number(values.p95)},
          {"p99", number(values.p99)}, {"minimum", number(values.minimum)}, {"maximum", number(values.maximum)}};
}

json numbers(const std::vector<double>& values) {
  json out = json::array();
  for (double value : values) out.push_back(number(value));
  return out;
}

json metric_json(const MetricSummary& summary) {
  json out = distribution_json(summary.distribution);
  out["quantiles_over"] = summary.over;
  out["regret"] = number(summary.regret);
  out["early"] = number(summary.early);
  out["late"] = number(summary.late);
  out["by_layer"] = numbers(summary.by_layer);
  return out;
}

json run_json(const RunSummary& run) {
  json parameters = json::parse(run.info.parameters, nullptr, false);
  json out = {{"results", run.results},
              {"run", run.run},
              {"trace", run.info.trace},
              {"trace_sha256", run.info.trace_sha256},
              {"policy", run.info.policy},
              {"label", run.label},
              {"preset", run.info.preset},
              {"parameters", parameters.is_discarded() ? json(run.info.parameters) : parameters},
              {"bound", run.bound},
              {"granularity", run.info.granularity},
              {"position_mode", run.info.position_mode},
              {"budget", run.info.budget},
              {"budget_text", run.info.budget_text},
              {"compared_at", run.budget},
              {"equal_bytes", run.info.equal_bytes},
              {"prompt_length", run.prompt_length},
              {"ratio", run.ratio},
              {"cache_bytes", run.info.cache_bytes},
              {"full_cache_bytes", run.info.full_cache_bytes},
              {"peak_cache_bytes", run.info.peak_cache_bytes},
              {"bytes_factor", run.bytes_factor},
              {"early_steps", run.early_steps},
              {"scope", run.info.scope},
              {"edit", run.info.edit},
              {"edit_of", run.info.edit_of},
              {"evicted", run.evicted},
              {"evicted_per_head", run.evicted_per_head},
              {"empty_heads", run.empty_heads},
              {"kept_sha256", run.info.kept_sha256},
              {"kept_prompt_sha256", run.info.kept_prompt_sha256},
              {"summary_only", run.info.summary_only},
              {"backend", run.info.backend},
              {"seconds", run.info.seconds},
              {"notes", run.notes}};
  for (const auto& [name, value] : run.info.summary) out["summary"][name] = number(value);
  for (const auto& [name, summary] : run.metrics) out["metrics"][name] = metric_json(summary);
  return out;
}

json cell_json(const Cell& cell) {
  json out = {{"label", cell.label}, {"bound", cell.bound}, {"runs", cell.runs}};
  for (const auto& [name, summary] : cell.metrics) {
    out["metrics"][name] = distribution_json(summary.distribution);
    out["metrics"][name]["regret"] = number(summary.regret);
    out["metrics"][name]["early"] = number(summary.early);
    out["metrics"][name]["late"] = number(summary.late);
    if (!std::isnan(summary.interval.low))
      out["metrics"][name]["mean_interval_95"] = {number(summary.interval.low), number(summary.interval.high)};
  }
  return out;
}

}  // namespace

std::string report_as_csv(const ReportSources& sources) {
  std::vector<std::string> columns = {
      "results",     "run",         "trace",         "policy",      "label",       "preset",           "bound",
      "granularity", "budget",      "prompt_length", "ratio",       "cache_bytes", "full_cache_bytes", "bytes_factor",
      "evicted",     "empty_heads", "kept_sha256",   "early_steps", "equal_bytes", "compared_at",      "notes"};
  for (const auto& name : sources.comparison.metrics)
    for (const char* part : {"mean", "median", "p1", "p5", "p95", "p99", "regret", "early", "late"})
      columns.push_back(name + "_" + part);
  std::string text = csv_line(columns);
  for (const auto& run : sources.comparison.runs) {
    std::vector<std::string> row = {run.results,
                                    std::to_string(run.run),
                                    run.info.trace,
                                    run.info.policy,
                                    run.label,
                                    run.info.preset,
                                    run.bound ? "1" : "0",
                                    run.info.granularity,
                                    std::to_string(run.info.budget),
                                    std::to_string(run.prompt_length),
                                    field(run.ratio),
                                    std::to_string(run.info.cache_bytes),
                                    std::to_string(run.info.full_cache_bytes),
                                    field(run.bytes_factor),
                                    std::to_string(run.evicted),
                                    std::to_string(run.empty_heads),
                                    run.info.kept_sha256,
                                    std::to_string(run.early_steps),
                                    std::to_string(run.info.equal_bytes),
                                    std::to_string(run.budget),
                                    join(run.notes, "; ")};
    for (const auto& name : sources.comparison.metrics) {
      const auto found = run.metrics.find(name);
      if (found == run.metrics.end()) {
        row.insert(row.end(), 9, "");
        continue;
      }
      const Distribution& values = found->second.distribution;
      const MetricSummary& summary = found->second;
      for (double value : {values.mean, values.median, values.p1, values.p5, values.p95, values.p99, summary.regret,
                           summary.early, summary.late})
        row.push_back(field(value));
    }
    text += csv_line(row);
  }
  return text;
}

std::string report_as_json(const ReportSources& sources) {
  json out = {
      {"format", "kvreplay-report"}, {"version", 1}, {"metric", sources.metric}, {"policies", sources.comparison.labels}};
  for (const auto& run : sources.comparison.runs) out["runs"].push_back(run_json(run));
  for (const auto& group : sources.comparison.budgets) {
    json budget = {{"budget", group.budget}, {"ratio", group.ratio}, {"text", group.text}};
    const Cell* best = best_cell(sources.comparison, group, sources.metric);
    budget["best"] = best == nullptr ? json(nullptr) : json(best->label);
    for (const auto& cell : group.cells) budget["policies"].push_back(cell_json(cell));
    out["budgets"].push_back(budget);
  }
  for (const auto& name : sources.comparison.metrics) {
    const MetricInfo& text = metric_info(name);
    out["metrics"][name] = {
        {"title", text.title}, {"unit", text.unit}, {"doc", text.doc}, {"higher_is_better", higher_is_better(text)}};
  }
  out["notes"] = json::array();
  for (const auto& note : gathered_notes(sources))
    out["notes"].push_back(note.who + (note.who.empty() ? "" : ": ") + note.what);
  // Text from files need not be UTF-8.
  return out.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace kvreplay::cli
