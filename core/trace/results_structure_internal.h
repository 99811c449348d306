// What a results file holds, read and checked once. Internal to core/trace.
#pragma once

#include <string>
#include <vector>

#include "core/trace/results.h"
#include "core/trace/source_internal.h"
#include "core/trace/trace_structure_internal.h"

namespace kvreplay {

std::string run_node(int run);  // "/runs/00007"

struct RunStructure {
  RunInfo info;
  std::int64_t layers = 0, heads = 0, tokens = 0;
  std::int64_t prompt_length = 0;  // of /scores; 0 without
  bool has_scores = false;
  struct Metric {
    std::string name;
    std::vector<std::int64_t> shape;
    std::vector<std::string> axes, region_names;
  };
  std::vector<Metric> metrics;
};

std::vector<RunStructure> read_results_structure(const Source& source, Problems& problems);

}  // namespace kvreplay
