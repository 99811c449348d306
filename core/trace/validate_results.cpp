#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/sha256.h"
#include "core/trace/results_structure_internal.h"
#include "core/trace/validate_internal.h"

namespace kvreplay {
namespace {

void one_of(Findings& findings, const std::string& node, const char* name, const std::string& value,
            std::initializer_list<const char*> allowed) {
  for (const char* choice : allowed)
    if (value == choice) return;
  findings.add(node, std::string("attribute \"") + name + "\" is \"" + value + "\"");
}

void validate_info(const RunStructure& run, const std::string& node, Findings& findings) {
  const RunInfo& info = run.info;
  one_of(findings, node, "granularity", info.granularity, {"query_head", "kv_head", "layer"});
  one_of(findings, node, "position_mode", info.position_mode, {"original", "compacted"});
  one_of(findings, node, "backend", info.backend, {"cpu", "cuda"});
  if (info.granularity == "layer" && run.heads != 1)
    findings.add(node, "keeps one set a layer, and its evicted_at has " + std::to_string(run.heads) + " heads");
  if (!nlohmann::json::accept(info.parameters)) findings.add(node, "attribute \"parameters\" is not JSON");
  if (info.budget < 0) findings.add(node, "attribute \"budget\" is " + std::to_string(info.budget));
  if (info.cache_bytes < 0 || info.full_cache_bytes <= 0 || info.peak_cache_bytes < 0)
    findings.add(node, "has byte counts that are negative or absent");
  if (info.summary_only && info.kept_prompt_sha256.size() != 64)
    findings.add(node, "has summaries only, and no attribute \"kept_prompt_sha256\"");
  if (info.preset.empty()) findings.add(node, "has no attribute \"preset\"");
  if (info.trace.empty()) findings.add(node, "has no attribute \"trace\"");
  if (info.trace_sha256.empty()) findings.add(node, "has neither \"trace_sha256\" nor \"trace_id\"");
}

// Layer by layer, because a run can be large.
void validate_evicted(const Source& source, const RunStructure& run, const std::string& node, Findings& findings, Job& job) {
  Sha256 hash;
  std::vector<std::int32_t> values(static_cast<std::size_t>(run.heads * run.tokens));
  const std::int64_t last_step = run.has_scores ? run.tokens - run.prompt_length : run.tokens;
  for (std::int64_t layer = 0; layer < run.layers; ++layer) {
    job.check();
    const std::array<std::int64_t, 3> start = {layer, 0, 0}, count = {1, run.heads, run.tokens};
    source.read_into(node + "/evicted_at", start, count, values.data());
    hash.update(values.data(), values.size() * sizeof(std::int32_t));
    const auto bad = std::find_if(values.begin(), values.end(), [&](std::int32_t v) { return v < -1 || v > last_step; });
    if (bad != values.end()) {
      const std::int64_t index = bad - values.begin();
      findings.add_repeated(node + "/evicted_at", "holds impossible steps",
                            "holds " + std::to_string(*bad) + " at [" + std::to_string(layer) + ", " +
                                std::to_string(index / run.tokens) + ", " + std::to_string(index % run.tokens) +
                                "], which is no step of this run");
    }
  }
  if (hash.hex() != run.info.kept_sha256) findings.add(node, "attribute \"kept_sha256\" is not the hash of its evicted_at");
}

void validate_metrics(const Source& source, const RunStructure& run, const std::string& node, Findings& findings, Job& job) {
  for (const auto& metric : run.metrics) {
    job.check();
    const std::string at = node + "/metrics/" + metric.name;
    const auto values = source.read_all<float>(at, source.dataset(at));
    const auto infinite = std::find_if(values.begin(), values.end(), [](float v) { return std::isinf(v); });
    if (infinite != values.end())
      findings.add(at, "holds an infinity at element " + std::to_string(infinite - values.begin()));
    if (!run.info.summary.contains(metric.name)) findings.add(node + "/summary", "has no mean of " + metric.name);
  }
}

}  // namespace

void validate_results(const Source& source, Findings& findings, Job& job) {
  Problems problems;
  const auto runs = read_results_structure(source, problems);
  for (const auto& problem : problems) findings.add(problem.node, problem.what, problem.remedy);
  job.begin("validating", static_cast<double>(runs.size()), "runs");
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const std::string node = run_node(static_cast<int>(i));
    validate_info(runs[i], node, findings);
    try {
      if (!runs[i].info.summary_only && runs[i].layers > 0 && runs[i].heads > 0 && runs[i].tokens > 0)
        validate_evicted(source, runs[i], node, findings, job);
      validate_metrics(source, runs[i], node, findings, job);
    } catch (const Cancelled&) {
      throw;
    } catch (const Error& error) {
      findings.add(node, std::string("cannot be read: ") + error.what());
    }
    job.advance_to(static_cast<double>(i + 1));
  }
  job.end();
  const auto summaries = std::count_if(runs.begin(), runs.end(), [](const auto& run) { return run.info.summary_only; });
  findings.checked("evicted sets and metrics of " + std::to_string(std::ssize(runs) - summaries) + " runs");
  if (summaries > 0) findings.checked(std::to_string(summaries) + " runs that have summaries only");
}

}  // namespace kvreplay
