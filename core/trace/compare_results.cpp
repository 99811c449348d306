#include <algorithm>
#include <cmath>
#include <map>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/trace/compare_internal.h"
#include "core/trace/results.h"

namespace kvreplay {
namespace {

// Runs are matched by what makes them: policy, budget, what scores and is judged, an edit, and the trace where several were
// replayed into one file.
std::string key_in_a_trace(const RunInfo& info) {
  return info.policy + "\n" + std::to_string(info.budget) + "\n" + info.scope + "\n" + info.edit;
}
std::string run_key(const RunInfo& info) { return key_in_a_trace(info) + "\n" + info.trace_sha256; }

class ResultsComparison {
 public:
  ResultsComparison(const Results& a, const Results& b, const CompareOptions& options, Differences& out, Job& job)
      : a_(a), b_(b), options_(options), out_(out), job_(job) {}

  void run() {
    out_.compare<std::int64_t>(rank_policy, "number of runs", a_.num_runs(), b_.num_runs());
    std::multimap<std::string, int> in_b;
    for (int run = 0; run < b_.num_runs(); ++run) in_b.emplace(match_key(b_.info(run)), run);
    job_.begin("comparing", a_.num_runs(), "runs");
    for (int run = 0; run < a_.num_runs(); ++run) {
      const auto found = in_b.find(match_key(a_.info(run)));
      if (found == in_b.end()) {
        out_.add(rank_policy, name_of(a_.info(run)), "only in the first");
      } else {
        compare_runs(run, found->second);
        in_b.erase(found);
      }
      job_.advance_to(run + 1);
    }
    job_.end();
    for (const auto& [key, run] : in_b) out_.add(rank_policy, name_of(b_.info(run)), "only in the second");
  }

 private:
  // The trace is part of the key only where a file has runs of several; else another trace would make every run differ.
  std::string match_key(const RunInfo& info) const { return several_traces() ? run_key(info) : key_in_a_trace(info); }
  bool several_traces() const {
    for (const Results* results : {&a_, &b_})
      for (int run = 1; run < results->num_runs(); ++run)
        if (results->info(run).trace_sha256 != results->info(0).trace_sha256) return true;
    return false;
  }
  static std::string name_of(const RunInfo& info) {
    return "run " + printable(info.policy) + ", budget " + std::to_string(info.budget) +
           (info.scope.empty() ? "" : ", " + printable(info.scope)) + (info.edit.empty() ? "" : ", " + printable(info.edit));
  }

  void compare_runs(int x, int y) {
    const RunInfo &a = a_.info(x), &b = b_.info(y);
    const std::string name = name_of(a);
    out_.compare(rank_model, name + ": trace_sha256", a.trace_sha256, b.trace_sha256);
    out_.compare(rank_computation, name + ": backend", a.backend, b.backend);
    out_.compare(rank_policy, name + ": granularity", a.granularity, b.granularity);
    out_.compare(rank_policy, name + ": position_mode", a.position_mode, b.position_mode);
    out_.compare(rank_policy, name + ": cache_bytes", a.cache_bytes, b.cache_bytes);
    out_.compare(rank_policy, name + ": full_cache_bytes", a.full_cache_bytes, b.full_cache_bytes);
    out_.compare(rank_policy, name + ": peak_cache_bytes", a.peak_cache_bytes, b.peak_cache_bytes);
    out_.compare(rank_text, name + ": notes", join(a.notes, "; "), join(b.notes, "; "));
    out_.compare(rank_provenance, name + ": created_by", a.created_by, b.created_by);
    out_.compare(rank_provenance, name + ": trace", a.trace, b.trace);
    if (a.summary_only || b.summary_only) return compare_summaries(a, b, name);
    compare_evicted(x, y, name);
    compare_metrics(x, y, name);
  }

  // All that a file with summaries only has.
  void compare_summaries(const RunInfo& a, const RunInfo& b, const std::string& name) {
    if (a.summary_only && b.summary_only)
      out_.compare(rank_policy, name + ": kept_prompt_sha256", a.kept_prompt_sha256, b.kept_prompt_sha256);
    for (const auto& [key, value] : a.summary) {
      const auto other = b.summary.find(key);
      if (other == b.summary.end()) {
        out_.add(rank_values, name + ": mean " + key, "only in the first");
        continue;
      }
      if (value == other->second || (std::isnan(value) && std::isnan(other->second))) continue;
      const double difference = std::abs(value - other->second);
      const double largest = std::max(std::abs(value), std::abs(other->second));
      if (difference <= options_.tolerance * largest) continue;
      out_.add(rank_values, name + ": mean " + key, format_number(value) + " against " + format_number(other->second));
      out_.all.back().max_absolute = difference;
      out_.all.back().max_relative = difference / largest;
    }
    for (const auto& [key, value] : b.summary)
      if (!a.summary.contains(key)) out_.add(rank_values, name + ": mean " + key, "only in the second");
  }

  void compare_evicted(int x, int y, const std::string& name) {
    const auto a = a_.evicted_at(x), b = b_.evicted_at(y);
    const std::vector<std::int64_t> shape(a.shape().begin(), a.shape().end());
    if (a.shape() != b.shape()) return out_.add(rank_policy, name + ": evicted_at", "has another shape");
    std::int64_t first = -1, count = 0;
    for (std::int64_t i = 0; i < a.size(); ++i) {
      if (a.data()[i] == b.data()[i]) continue;
      if (first < 0) first = i;
      ++count;
    }
    if (count == 0) return;
    out_.add(rank_policy, name + ": evicted_at",
             std::to_string(count) + " of " + std::to_string(a.size()) + " entries differ, first at [layer, head, token] " +
                 position_text(first, shape) + ": " + std::to_string(a.data()[first]) + " against " +
                 std::to_string(b.data()[first]));
    out_.all.back().first_position = position_text(first, shape);
  }

  void compare_metrics(int x, int y, const std::string& name) {
    const auto in_a = a_.metric_names(x), in_b = b_.metric_names(y);
    for (const auto& metric : in_b)
      if (std::find(in_a.begin(), in_a.end(), metric) == in_a.end())
        out_.add(rank_values, name + ": " + metric, "only in the second");
    for (const auto& metric : in_a) {
      job_.check();
      if (std::find(in_b.begin(), in_b.end(), metric) == in_b.end()) {
        out_.add(rank_values, name + ": " + metric, "only in the first");
        continue;
      }
      const MetricValues a = a_.metric(x, metric), b = b_.metric(y, metric);
      if (a.shape != b.shape) {
        out_.add(rank_values, name + ": " + metric, "has another shape");
        continue;
      }
      ValueComparison values;
      values.add(a.values.data(), b.values.data(), a.values.size(), 0);
      if (!values.differs(options_.tolerance)) continue;
      out_.add(rank_values, name + ": " + metric,
               std::to_string(values.count()) + " of " + std::to_string(a.values.size()) + " values differ, by at most " +
                   format_number(values.max_absolute()) + " (" + format_number(values.max_relative()) +
                   " of the largest), first at " + position_text(values.first(), a.shape));
      Difference& added = out_.all.back();
      added.max_absolute = values.max_absolute();
      added.max_relative = values.max_relative();
      added.first_position = position_text(values.first(), a.shape);
    }
  }

  const Results& a_;
  const Results& b_;
  const CompareOptions& options_;
  Differences& out_;
  Job& job_;
};

}  // namespace

void compare_results(const std::string& a, const std::string& b, const CompareOptions& options, Differences& out, Job& job) {
  const auto left = open_results(a, options.trust), right = open_results(b, options.trust);
  ResultsComparison(*left, *right, options, out, job).run();
}

}  // namespace kvreplay
