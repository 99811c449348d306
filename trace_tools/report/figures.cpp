#if KVREPLAY_WITH_FIGURES
#include "trace_tools/report/figures.h"

#include <algorithm>

#include "gui/figure_kinds/kind.h"

namespace kvreplay::cli {
namespace {

using figure::FigureSpec;

// What the runs have, and so which figures there are.
struct Contents {
  std::int64_t values = 0, layers = 0;  // of the leading metric
  bool heads = false;                   // some metric has a value for each head
  bool evictions = false;               // which tokens were evicted is there
};

Contents contents_of(const ReportSources& sources, const BudgetGroup& group) {
  Contents contents;
  for (const auto& run : sources.comparison.runs) {
    if (const auto found = run.metrics.find(sources.metric); found != run.metrics.end()) {
      contents.values = std::max(contents.values, found->second.distribution.count);
      if (!found->second.by_layer.empty()) contents.layers = std::max(contents.layers, run.layers);
    }
  }
  for (const auto& cell : group.cells) {
    const RunSummary& run = sources.comparison.runs[cell.runs.front()];
    if (run.evicted == 0) continue;
    contents.evictions |= !run.info.summary_only;
    for (const auto& [name, summary] : run.metrics)
      contents.heads |= !summary.by_head.empty() && summary.distribution.count > 0;
  }
  return contents;
}

struct Wanted {
  const char* id;
  const char* kind;
  std::map<std::string, std::string> options;
  std::string help;
};

std::vector<Wanted> wanted_figures(const ReportSources& sources, const BudgetGroup& group) {
  const Contents there = contents_of(sources, group);
  const std::string budget = std::to_string(group.budget), &metric = sources.metric;
  std::vector<Wanted> all;
  if (!metric.empty() && sources.comparison.budgets.size() > 1) {
    std::string help = "Dashed: found in hindsight, from the queries that come after the eviction.";
    if (sources.comparison.traces.size() > 1)
      help += " Points at the same budget are set apart sideways so that their intervals can be read.";
    all.push_back({"by-budget", "error_by_budget", {{"metric", metric}}, help});
    // Of a single layer there is no spread to show.
    if (there.values > 1)
      all.push_back(
          {"tail-by-budget",
           "error_by_budget",
           {{"metric", metric}, {"statistic", "tail"}},
           "The same axes in all three. A policy can look good in the mean and still break a few heads or layers."});
  }
  if (!metric.empty() && there.layers > 1)
    all.push_back(
        {"by-layer", "error_by_layer", {{"metric", metric}, {"budget", budget}}, "Where in the model the error arises."});
  if (there.heads) {
    all.push_back(
        {"by-head",
         "head_grid",
         {{"budget", budget}, {"numbers", "false"}},
         "One square is one query head of one layer; all maps share one scale. A bright square is a head that loses "
         "much of what it read."});
    all.push_back(
        {"head-ranking",
         "head_ranking",
         {{"budget", budget}},
         "At 95 on the axis across a line shows the value that 95 % of its heads do not exceed. What happens at the "
         "right end is what a mean hides."});
  }
  if (there.evictions)
    all.push_back(
        {"kept-map",
         "kept_map",
         {{"budget", budget}},
         "The text from left to right, one row a policy. Bright: every head still holds the token; dark: none does."});
  return all;
}

}  // namespace

std::vector<ReportFigure> report_figures(const ReportSources& sources, const BudgetGroup& group, Job& job) {
  if (std::none_of(group.cells.begin(), group.cells.end(),
                   [&](const Cell& cell) { return sources.comparison.runs[cell.runs.front()].evicted > 0; }))
    return {};
  figure::FigureSources from;
  from.results = std::shared_ptr<const ReportSources>(std::shared_ptr<void>(), &sources);  // not owned
  FigureSpec spec;
  for (const auto& file : sources.files) spec.files.push_back(file->path());
  std::vector<ReportFigure> figures;
  for (const auto& wanted : wanted_figures(sources, group)) {
    spec.kind = wanted.kind;
    spec.options = wanted.options;
    figures.push_back({wanted.id, wanted.help, figure::make_figure(spec, from, job)});
  }
  return figures;
}

}  // namespace kvreplay::cli
#endif
