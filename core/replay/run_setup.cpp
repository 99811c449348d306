#include "core/replay/run_setup_internal.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/version.h"
#include "core/replay/layer_replay_internal.h"

namespace kvreplay {

std::vector<TextSpan> evidence_spans(const Trace& trace, const std::vector<std::string>& asked) {
  const std::vector<std::string> labels = asked.empty() ? std::vector<std::string>{"needle", "evidence"} : asked;
  std::vector<TextSpan> evidence;
  for (const TextSpan& span : trace.spans())
    if (std::find(labels.begin(), labels.end(), span.label) != labels.end()) evidence.push_back(span);
  return evidence;
}

std::vector<const Metric*> usable_metrics(const Trace& trace, const std::vector<TextSpan>& evidence,
                                          const std::vector<const Metric*>& wanted, bool all_or_error,
                                          EvaluationRequest& needs) {
  std::vector<const Metric*> metrics;
  for (const Metric* metric : wanted) {
    const std::string missing = metric->missing(trace, evidence);
    if (missing.empty()) {
      metrics.push_back(metric);
      const EvaluationRequest more = metric->needs();
      needs.outputs |= more.outputs;
      needs.single_removals |= more.single_removals;
      needs.overlap |= more.overlap;
      needs.regions |= more.regions;
      needs.entropy |= more.entropy;
    } else if (all_or_error) {
      throw Error(trace.path(), "metric " + metric->info().name + " cannot be computed: " + missing);
    }
  }
  return metrics;
}

std::int64_t settle_budget(const Trace& trace, const PolicySpec& spec, const Policy& policy, const Budget& budget,
                           const std::function<void(const std::string&)>& note) {
  std::int64_t tokens = budget.resolve(trace, policy.granularity());
  if (const std::int64_t fixed = policy.fixed_budget(); fixed > 0 && fixed != tokens) {
    note("sizes written in the policy ask for " + std::to_string(fixed) + " tokens; they win over the budget of " +
         std::to_string(tokens));
    tokens = fixed;
  }
  if (tokens < trace.prompt_length() && tokens < policy.minimum_budget())
    throw Error("--budget",
                "\"" + budget.text + "\" is " + std::to_string(tokens) + " tokens, but " + spec.label() + " always keeps " +
                    std::to_string(policy.minimum_budget()),
                "ask for at least that many");
  return tokens;
}

void describe_run(const Trace& trace, const PolicySpec& spec, const Policy& policy, std::int64_t budget,
                  const CacheAccount& account, const MetricTable& metrics, const MetricTotals& totals, RunInfo& info,
                  const std::function<void(const std::string&)>& note) {
  info.policy = spec.text();
  info.preset = spec.description->name;
  info.parameters = spec.parameters_json();
  info.budget = budget;
  info.cache_bytes = account.cache_bytes();
  info.full_cache_bytes = full_cache_bytes(trace);
  info.peak_cache_bytes = account.peak_cache_bytes();
  info.position_mode = policy.compacts_positions() ? "compacted" : "original";
  info.granularity = granularity_name(policy.granularity());
  info.trace = trace.path();
  info.created_by = program_version();
  info.prompt_length = trace.prompt_length();
  if (account.evicted_tokens() == 0 && !spec.description->keeps_everything)
    note(budget >= trace.prompt_length() ? "nothing was evicted: the budget holds the whole prompt of " +
                                               std::to_string(trace.prompt_length()) + " tokens"
                                         : std::string("nothing was evicted"));
  if (account.head_emptied()) note("at least one head kept no prompt token at all");

  std::int64_t not_finite = 0;
  for (std::size_t m = 0; m < metrics.rows().size(); ++m) {
    if (!is_measured(policy, *metrics.rows()[m].metric)) continue;
    totals.summarise(m, info.summary);
    not_finite += totals.not_finite(m);
  }
  info.summary["cache_bytes"] = static_cast<double>(info.cache_bytes);
  info.summary["full_cache_bytes"] = static_cast<double>(info.full_cache_bytes);
  info.summary["not_finite"] = static_cast<double>(not_finite);
  info.summary["evicted_tokens"] = static_cast<double>(account.evicted_tokens());
  if (not_finite > 0) note(std::to_string(not_finite) + " metric values are NaN or infinite");
}

}  // namespace kvreplay
