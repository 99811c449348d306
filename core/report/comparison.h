// Runs side by side: what every table, page and figure of a report is made of.
//
// A run is one policy at one budget on one trace. A cell gathers the runs of the same policy and budget over all traces.
// Nothing here knows a particular policy or metric.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/base/job.h"
#include "core/report/statistics.h"
#include "core/trace/results.h"

namespace kvreplay {

// One metric of one run, or of several runs together.
struct MetricSummary {
  std::string over;              // what the quantiles run over: "heads" or "layers"; "runs" where there are only means
  Distribution distribution;     // of the values of each head (or layer), each a mean over steps
  std::vector<double> by_layer;  // [L] mean over heads and steps
  std::vector<double> by_head;   // [L, Hq] mean over steps; empty for metrics without heads
  double early = 0, late = 0;    // means over the first steps after the prompt and over the rest; NaN without such a step
  double regret = 0;  // how much worse the mean is than the bound's on the same trace and budget; NaN without a bound
  Interval interval;  // of the mean over traces; NaN for one trace
};

// A metric with a value a region of the text, averaged over layers, heads and steps.
struct RegionSummary {
  std::vector<std::string> names;
  std::vector<double> means;
};

struct RunSummary {
  std::string results;       // path of the file
  std::string results_name;  // its last part
  int run = 0;               // its number there
  const Results* file = nullptr;
  RunInfo info;
  std::string label;   // the shortest name that tells its policy from the others here: "snapkv", "restkv:alpha=0.3"
  bool bound = false;  // computed in hindsight from later queries; no policy can be expected to reach it
  std::int64_t layers = 0, heads = 0, tokens = 0, prompt_length = 0;
  std::int64_t steps = -1;       // decode steps that were measured; -1: the run has no metric that tells
  std::int64_t early_steps = 0;  // how many steps are the early ones
  std::int64_t budget = 0;   // tokens at which it is compared: the nominal budget; at equal bytes, the tokens per KV head
                             // that take these bytes, whatever the policy's own budget
  double ratio = 0;          // budget / prompt
  std::int64_t evicted = 0;  // (layer, head, token) entries that are evicted in the end
  double evicted_per_head = 0;
  std::int64_t empty_heads = 0;  // heads that keep no prompt token at all
  double bytes_factor = 1;       // stored heads over KV heads: above 1 when every query head keeps rows of its own
  std::vector<std::string> notes;
  std::map<std::string, MetricSummary> metrics;
  std::map<std::string, RegionSummary> regions;
};

struct Cell {
  std::string label;
  bool bound = false;
  std::vector<std::size_t> runs;  // into Comparison::runs, one a trace
  std::map<std::string, MetricSummary> metrics;
};

struct BudgetGroup {
  std::int64_t budget = 0;  // tokens; of the first trace when budgets were given as ratios
  double ratio = 0;
  std::string text;         // "410 tokens per head (10 %)"
  std::vector<Cell> cells;  // in the order of Comparison::labels; policies without a run at this budget are left out
};

struct Comparison {
  std::vector<RunSummary> runs;
  std::vector<std::string> labels;   // policies in the order in which they first appear, bounds last
  std::vector<BudgetGroup> budgets;  // ascending
  std::vector<std::string> metrics;  // every name that any run has, in the registry's order, others after it; those with
                                     // regions are not among them
  std::vector<std::string> traces;   // distinct, as given
  const BudgetGroup* find_budget(std::int64_t budget) const;
  bool has_values(const std::string& metric) const;  // any number at all in any run
};

struct ComparisonOptions {
  // Prompt length of a trace where the results do not tell it; 0: unknown.
  std::function<std::int64_t(const RunInfo&)> prompt_length;
};

// Throws Error when there is no run at all.
Comparison compare(const std::vector<const Results*>& files, const ComparisonOptions& options, Job& job);

// Share of the heads (all, or those of one layer index) that still hold each token at the end. [T]; empty where the file has
// summaries only.
std::vector<float> kept_share(const RunSummary& run, std::int64_t layer_index = -1);

// The cell of a group that does best on a metric among policies that evicted something; nullptr where none has it.
const Cell* best_cell(const Comparison& comparison, const BudgetGroup& group, const std::string& metric);

}  // namespace kvreplay
