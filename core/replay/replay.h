// Replay: a trace through many policies × budgets, work that they share done once, teacher-forced over the generated
// tokens; the runs go to a results file layer by layer.
//
//   ReplayRequest request;
//   request.policies = {parse_policy("restkv"), parse_policy("snapkv")};
//   request.budgets = {Budget::parse("10%"), Budget::parse("256")};
//   ResultsWriter results("r.h5");
//   replay(*open_trace("t.h5"), request, *make_cpu_backend(), results, job);
//   results.finish();
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/backend/backend.h"
#include "core/base/job.h"
#include "core/metric/metric.h"
#include "core/policy/policy.h"
#include "core/replay/budget.h"
#include "core/replay/edit.h"
#include "core/replay/worth.h"
#include "core/trace/results.h"

namespace kvreplay {

struct ReplayRequest {
  std::vector<PolicySpec> policies;
  std::vector<Budget> budgets;
  std::vector<const Metric*> metrics;  // those that the trace has no data for are an error unless all_metrics
  bool all_metrics = true;             // every metric that the trace has data for; `metrics` is ignored
  // Budgets mean bytes: those that so many tokens in every KV head of every layer take, or as written ("2MiB"). Each policy
  // gets the nominal budget whose cache really takes as much of them as it can, and no more; `full` is left as it is. A
  // policy that takes more at any budget has no run there, which is warned of; Error when no run is left.
  bool equal_bytes = false;
  bool scores = false;
  // The results file gets what describes each run and its summary, but neither evictions nor values of single steps and
  // heads: for sweeps of thousands of runs. Not together with scores.
  bool summary_only = false;
  // Every run is measured again with each of these, as a run of its own after it: what the token is worth. Error when an
  // edit changes nothing (a token that is to be restored was kept).
  std::vector<TokenEdit> edits;
  // Evicts once more with scores in half precision (the policy key score_dtype=fp16) and says how much of the kept set
  // stays: summary keys kept_overlap_fp16, kept_jaccard_fp16 and the same with _worst, of the worst head.
  bool stability = false;
  // For each run without an edit, the tokens whose restoration would lower the error of a row most go to on_worth, layer by
  // layer; run: its number in the results file.
  std::int64_t worth = 0;
  std::function<void(int run, const TokenWorth&)> on_worth;
  // Means over the first steps after the prompt and over the rest are kept apart: summary keys NAME.early and NAME.late.
  std::int64_t early_steps = 16;
  // Where the prompt ends and what counts (core/trace/scoped_trace.h: names of spans). Only queries of score_spans may
  // score, and the eviction happens where the last of them ends; prompt_length > 0 puts it elsewhere and lets every earlier
  // query score. Only queries of judge_spans count in the metrics; the others' values are NaN.
  std::int64_t prompt_length = 0;
  std::vector<std::string> score_spans, judge_spans;
  std::vector<std::string> evidence_labels;  // spans that evidence_recall counts; empty: "needle" and "evidence"
};

// Appends one run for each policy × budget, by policy, then by budget. Throws Error for a budget below what a policy must
// protect, a dataset that a policy needs and the trace lacks, and NaN or infinity in the trace. Things worth knowing that
// are no errors (nothing was evicted, sizes in a policy string that win over the budget) go to job.warn and into the run.
// Returns the runs as they were written.
std::vector<RunInfo> replay(const Trace& trace, const ReplayRequest& request, Backend& backend, ResultsWriter& results,
                            Job& job);
// The same with the layers spread over several backends of one kind, each with a thread of its own. The results do not
// depend on how many there are.
std::vector<RunInfo> replay(const Trace& trace, const ReplayRequest& request, std::span<Backend* const> backends,
                            ResultsWriter& results, Job& job);

}  // namespace kvreplay
