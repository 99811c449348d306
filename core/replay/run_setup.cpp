#include "core/replay/run_setup_internal.h"

#include <algorithm>

#include "core/base/error.h"

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

}  // namespace kvreplay
