// What `kvreplay replay` prints: its runs, what edited tokens are worth, and which evicted tokens are worth the most.
#pragma once

#include <string>
#include <vector>

#include "core/replay/worth.h"
#include "core/trace/results.h"

namespace kvreplay::cli {

// A token of TokenWorth and the run that evicted it.
struct RankedToken {
  std::string trace;
  std::string policy;  // its short name
  std::int64_t budget = 0;
  int run = 0;    // its number in the results file
  int place = 0;  // 1 for the best of its row
  TokenWorth worth;
  std::string text;  // the token's own bytes; empty where the trace has none
};

struct ReplayOutcome {
  std::string out;
  std::vector<RunInfo> runs;
  std::vector<RankedToken> worth;
};

std::string replay_tables(const ReplayOutcome& outcome);
std::string replay_json(const ReplayOutcome& outcome);

}  // namespace kvreplay::cli
