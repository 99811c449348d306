// Whole replays of small traces, for tests: a trace in memory through policies into a results file, and that file read back.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/replay/replay.h"
#include "tests/unit/replay_reference.h"

namespace kvreplay::replay_runs {

using reference::Shape;

struct Folder {
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "kvreplay-replay-XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};

struct Collected final : Job {
  std::vector<std::string> warnings;
  void warn(std::string_view message) override { warnings.emplace_back(message); }
};

struct Outcome {
  std::vector<RunInfo> runs;
  std::vector<std::string> warnings;
  std::unique_ptr<Results> results;
};

inline Outcome run(const Folder& folder, const MemoryTraceContents& contents, const std::vector<std::string>& policies,
                   const std::vector<std::string>& budgets, ReplayRequest request = {}) {
  const auto trace = make_memory_trace(contents);
  for (const auto& policy : policies) request.policies.push_back(parse_policy(policy));
  for (const auto& budget : budgets) request.budgets.push_back(Budget::parse(budget));
  request.scores = true;
  Outcome outcome;
  Collected job;
  const std::string path = folder.path + "/r.h5";
  ResultsWriter writer(path);
  outcome.runs = replay(*trace, request, *make_cpu_backend(), writer, job);
  writer.finish();
  outcome.warnings = job.warnings;
  outcome.results = open_results(path);
  return outcome;
}

inline Shape two_layers() {
  Shape shape;
  shape.layers = 2;
  shape.prompt = 80;
  shape.steps = 5;
  return shape;
}

}  // namespace kvreplay::replay_runs
