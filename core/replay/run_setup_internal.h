// What replays and live runs have in common before their first layer (which spans and metrics, how many tokens) and after
// the last one. Internal to core/replay.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/metric/metric.h"
#include "core/policy/policy.h"
#include "core/replay/budget.h"
#include "core/replay/cache_account_internal.h"
#include "core/replay/metric_sink_internal.h"
#include "core/trace/results.h"

namespace kvreplay {

// The trace's marked spans with one of these labels; no labels: "needle" and "evidence".
std::vector<TextSpan> evidence_spans(const Trace& trace, const std::vector<std::string>& labels);

// The metrics of `wanted` that the trace has data for, and in `needs` what they ask of a backend. all_or_error: one that it
// has no data for is an Error.
std::vector<const Metric*> usable_metrics(const Trace& trace, const std::vector<TextSpan>& evidence,
                                          const std::vector<const Metric*>& wanted, bool all_or_error,
                                          EvaluationRequest& needs);

// The tokens that a policy gets for a budget; sizes written in its string win, which `note` is told. Throws Error below what
// the policy always keeps.
std::int64_t settle_budget(const Trace& trace, const PolicySpec& spec, const Policy& policy, const Budget& budget,
                           const std::function<void(const std::string&)>& note);

// What a results file says of a run whatever asked for it, into `info`: policy, budget, what was counted of its layers, and
// the means of its metrics. Things worth knowing that follow from that go to `note`.
void describe_run(const Trace& trace, const PolicySpec& spec, const Policy& policy, std::int64_t budget,
                  const CacheAccount& account, const MetricTable& metrics, const MetricTotals& totals, RunInfo& info,
                  const std::function<void(const std::string&)>& note);

}  // namespace kvreplay
