// Checks a trace or results file against every rule of its format (data/trace-format.md): structure, types, shapes,
// causality, finiteness, checksums, and on samples that log-sum-exps, attention and head outputs follow from Q, K and V.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/job.h"
#include "core/trace/trace.h"

namespace kvreplay {

// A rule that a file breaks.
struct Problem {
  std::string node;  // "/layers/000/key"; "/" for the file as a whole
  std::string what;
  std::string remedy;  // may be empty
};
using Problems = std::vector<Problem>;

struct ValidationReport {
  std::string format;  // "kvreplay-trace" or "kvreplay-results"; empty when it is neither
  bool complete = true;
  Problems problems;                 // in the order of the file; at most a few thousand
  std::vector<std::string> checked;  // what was looked at: "checksums of 96 chunks", "log_sum_exp on 36 queries", ...
};

// Throws Error when the file cannot be opened at all.
ValidationReport validate_file(const std::string& path, Trust trust, Job& job);

}  // namespace kvreplay
