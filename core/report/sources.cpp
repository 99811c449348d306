#include "core/report/sources.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/report/metric_info.h"

namespace kvreplay {
namespace {

// A path in a results file is meant from where the replay ran; a results file that was moved along with its trace still
// finds it beside itself.
std::string find_trace(const std::string& named, const std::string& results) {
  if (named.empty() || std::filesystem::exists(named)) return named;
  const auto beside = std::filesystem::path(results).parent_path() / std::filesystem::path(named).filename();
  return std::filesystem::exists(beside) ? beside.string() : std::string();
}

// Identities that begin with "id:" change when a large file is copied, and prove nothing.
bool is_another_file(const std::string& expected, const std::string& found) {
  const auto is_hash = [](const std::string& identity) { return !identity.empty() && identity.rfind("id:", 0) != 0; };
  return is_hash(expected) && is_hash(found) && expected != found;
}

// The runs of one trace take the first of `traces` that has its identity, or its name where identities prove nothing.
// `traces`: paths with their identities.
std::string given_trace(const std::vector<std::pair<std::string, std::string>>& traces, const RunInfo& info,
                        std::set<std::string>& used) {
  const auto name = [](const std::string& path) { return std::filesystem::path(path).filename(); };
  for (const auto& [path, identity] : traces) {
    const bool same = identity == info.trace_sha256;
    if (!same && (is_another_file(info.trace_sha256, identity) || name(path) != name(info.trace))) continue;
    used.insert(path);
    return path;
  }
  return "";
}

void open_traces(const ReportRequest& request, ReportSources& sources) {
  std::set<std::string> used;
  std::vector<std::pair<std::string, std::string>> given;
  for (const auto& path : request.traces) given.emplace_back(path, open_trace(path)->identity());
  for (const auto& file : sources.files) {
    for (int run = 0; run < file->num_runs(); ++run) {
      const RunInfo& info = file->info(run);
      if (sources.traces.count(info.trace) != 0) continue;
      auto& trace = sources.traces[info.trace];
      std::string path = request.trace.empty() ? given_trace(given, info, used) : request.trace;
      if (path.empty()) path = find_trace(info.trace, file->path());
      try {
        if (path.empty()) throw Error(info.trace, "the trace is not there any more", "--trace FILE says where it is now");
        trace = open_trace(path);
        if (is_another_file(info.trace_sha256, trace->identity()))
          throw Error(path, "is not the trace that these results are from", "--trace FILE says which one is");
      } catch (const Error& error) {
        trace.reset();
        if (!request.trace.empty()) throw;
        sources.notes.push_back(std::string(error.what()) + ". Without it there is no text and no model name");
      }
    }
  }
  for (const auto& path : request.traces)
    if (!used.contains(path)) throw Error(path, "is the trace of none of these runs", "leave it out");
}

std::string choose_metric(const ReportRequest& request, const Comparison& comparison) {
  const auto& names = comparison.metrics;
  if (!request.metric.empty()) {
    if (std::find(names.begin(), names.end(), request.metric) == names.end()) {
      const std::string guess = closest(request.metric, names);
      throw Error("--metric " + request.metric, "no run has this metric",
                  guess.empty() ? "there are " + join(names, ", ", " and ") : "did you mean " + guess + "?");
    }
    return request.metric;
  }
  for (const auto& name : names)
    if (metric_info(name).headline && comparison.has_values(name)) return name;
  const auto any = std::find_if(names.begin(), names.end(), [&](const auto& name) { return comparison.has_values(name); });
  return any == names.end() ? "" : *any;
}

}  // namespace

const Trace* ReportSources::trace_of(const RunInfo& run) const {
  const auto found = traces.find(run.trace);
  return found == traces.end() ? nullptr : found->second.get();
}

ReportSources open_sources(const ReportRequest& request, Job& job) {
  ReportSources sources;
  std::vector<const Results*> files;
  for (const auto& path : request.paths) {
    sources.files.push_back(open_results(path));
    files.push_back(sources.files.back().get());
  }
  open_traces(request, sources);
  ComparisonOptions options;
  options.prompt_length = [&](const RunInfo& info) {
    const Trace* trace = sources.trace_of(info);
    return trace == nullptr ? std::int64_t{0} : trace->prompt_length();
  };
  sources.comparison = compare(files, options, job);
  sources.metric = choose_metric(request, sources.comparison);
  return sources;
}

std::vector<GatheredNote> gathered_notes(const ReportSources& sources) {
  struct Who {
    std::string label;
    std::set<std::int64_t> budgets;
  };
  std::vector<std::pair<std::string, std::vector<Who>>> by_note;
  for (const auto& run : sources.comparison.runs) {
    for (const auto& note : run.notes) {
      auto entry = std::find_if(by_note.begin(), by_note.end(), [&](const auto& one) { return one.first == note; });
      if (entry == by_note.end()) entry = by_note.insert(by_note.end(), {note, {}});
      auto who =
          std::find_if(entry->second.begin(), entry->second.end(), [&](const Who& one) { return one.label == run.label; });
      if (who == entry->second.end()) who = entry->second.insert(who, {run.label, {}});
      who->budgets.insert(run.budget);
    }
  }
  std::vector<GatheredNote> notes;
  for (const auto& [what, whos] : by_note) {
    std::vector<std::string> names;
    for (const auto& who : whos) {
      std::vector<std::string> budgets;
      for (auto budget : who.budgets) budgets.push_back(std::to_string(budget));
      names.push_back(who.label + " at " + join(budgets, ", ", " and "));
    }
    notes.push_back({join(names, "; "), what});
  }
  for (const auto& note : sources.notes) notes.push_back({"", note});
  return notes;
}

std::array<Tail, 2> tail_of(const std::string& metric) {
  if (higher_is_better(metric_info(metric))) return {Tail{"p5", &Distribution::p5}, Tail{"p1", &Distribution::p1}};
  return {Tail{"p95", &Distribution::p95}, Tail{"p99", &Distribution::p99}};
}

std::vector<std::string> table_metrics(const ReportSources& sources) {
  std::vector<std::string> names;
  if (!sources.metric.empty()) names.push_back(sources.metric);
  for (const auto& name : sources.comparison.metrics)
    if (name != sources.metric && metric_info(name).headline && sources.comparison.has_values(name)) names.push_back(name);
  return names;
}

}  // namespace kvreplay
