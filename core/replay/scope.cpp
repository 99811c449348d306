#include <algorithm>

#include "core/base/text.h"
#include "core/replay/scope_internal.h"
#include "core/trace/scoped_trace.h"

namespace kvreplay {
namespace {

std::string scope_text(const ReplayRequest& request) {
  std::vector<std::string> parts;
  if (request.prompt_length > 0) parts.push_back("prompt " + std::to_string(request.prompt_length));
  if (!request.score_spans.empty()) parts.push_back("score " + join(request.score_spans, "+"));
  if (!request.judge_spans.empty()) parts.push_back("judge " + join(request.judge_spans, "+"));
  return join(parts, "; ");
}

// Steps of the trace whose queries lie in the spans. Those that were not recorded are counted in `missing`.
std::vector<bool> steps_in(const Trace& trace, const std::vector<TextSpan>& spans, std::int64_t& missing) {
  std::vector<bool> steps(static_cast<std::size_t>(trace.num_decode_steps()), false);
  for (std::size_t s = 0; s < steps.size(); ++s) {
    const std::int64_t position = trace.prompt_length() + static_cast<std::int64_t>(s);
    steps[s] = std::any_of(spans.begin(), spans.end(), [&](const TextSpan& span) { return span.contains(position); });
    if (steps[s] && !trace.has_query(position)) ++missing;
  }
  return steps;
}

void choose_judged(const Trace& trace, const ReplayRequest& request, ReplayScope& scope, Job& job) {
  scope.judge = select_spans(trace, request.judge_spans, "--judge");
  std::int64_t missing = 0;
  scope.judged = steps_in(scope.view != nullptr ? *scope.view : trace, scope.judge, missing);
  const std::int64_t asked = std::count(scope.judged.begin(), scope.judged.end(), true);
  const std::string names = join(request.judge_spans, ", ", " and ");
  if (asked == 0)
    throw Error("--judge",
                "no token of " + names + " in " + trace.path() + " comes after the eviction at token " +
                    std::to_string(scope.view != nullptr ? scope.view->prompt_length() : trace.prompt_length()),
                "judge spans that come later, or let earlier spans score");
  const std::string remedy = "capture with --queries all, or a larger --queries window:W";
  if (missing == asked)
    throw Error(trace.path() + ":/queries/positions",
                "no query of " + names + " was recorded, so --judge has nothing to measure", remedy);
  if (missing > 0)
    job.warn("--judge: " + std::to_string(missing) + " of the " + std::to_string(asked) + " queries of " + names + " in " +
             trace.path() + " were not recorded and are not measured; " + remedy);
}

}  // namespace

ReplayScope resolve_scope(const Trace& trace, const ReplayRequest& request, Job& job) {
  ReplayScope scope;
  scope.text = scope_text(request);
  TraceScope asked;
  if (request.prompt_length > 0) asked.prompt_length = request.prompt_length;
  if (!request.score_spans.empty()) {
    scope.score = asked.score = select_spans(trace, request.score_spans, "--score");
    for (const TextSpan& span : scope.score) asked.prompt_length = std::max<std::int64_t>(asked.prompt_length, span.end);
  }
  if (asked.prompt_length > 0) scope.view = scoped_trace(trace, std::move(asked));
  if (!request.judge_spans.empty()) choose_judged(trace, request, scope, job);
  return scope;
}

}  // namespace kvreplay
