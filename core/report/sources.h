// What a report is made from: the results, what they say when put side by side, and the traces where they are still there.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/report/comparison.h"
#include "core/trace/trace.h"

namespace kvreplay {

struct ReportSources {
  std::vector<std::unique_ptr<Results>> files;
  Comparison comparison;
  std::map<std::string, std::unique_ptr<Trace>> traces;  // by the name that results have for them; absent when not found
  std::vector<std::string> notes;                        // why one is absent
  std::string metric;                                    // the one that tables lead with

  const Trace* trace_of(const RunInfo& run) const;
};

struct ReportRequest {
  std::vector<std::string> paths;
  std::string trace;                // replaces what the results name; empty: as named
  std::vector<std::string> traces;  // where traces may be, too: each is taken for the runs whose trace it is
  std::string metric;               // empty: the first headline metric that the runs have
};

// Throws Error when a file cannot be opened, when `trace` is not the trace of the results or one of `traces` is the trace of
// none, and for a metric no run has.
ReportSources open_sources(const ReportRequest& request, Job& job);

// Lines about many runs become one a note: "full at 5 budgets: nothing was evicted".
struct GatheredNote {
  std::string who;
  std::string what;
};
std::vector<GatheredNote> gathered_notes(const ReportSources& sources);

// The two quantiles on the side where a metric is bad: the 95th and 99th percentile, or the 5th and 1st where higher is
// better.
struct Tail {
  const char* name;
  double Distribution::*value;
};
std::array<Tail, 2> tail_of(const std::string& metric);

// Columns of the short tables: the chosen metric, then the other headline metrics that the runs have.
std::vector<std::string> table_metrics(const ReportSources& sources);

}  // namespace kvreplay
