// What the tests of policies share: evicting from a random trace, what a kept set looks like as evicted_at, and a plain
// simulation of policies that evict at every step. Shares nothing with the stages.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "core/policy/layer_workspace.h"
#include "tests/unit/replay_reference.h"

namespace kvreplay::reference {

using Rows = std::vector<std::vector<std::int32_t>>;
using Vector = std::vector<double>;

// One row of a tensor [heads, rows, columns].
inline Vector row_of(const Tensor<float, 3>& tensor, int h, int t) {
  Vector row;
  for (int i = 0; i < tensor.dim(2); ++i) row.push_back(tensor(h, t, i));
  return row;
}

inline Rows rows_of(const Tensor<std::int32_t, 2>& evicted_at) {
  Rows rows;
  for (std::int64_t h = 0; h < evicted_at.dim(0); ++h) {
    const auto row = evicted_at.view()[h].flat();
    rows.emplace_back(row.begin(), row.end());
  }
  return rows;
}

// A table of heads for models of `layers` layers of four query heads, uneven enough that budgets differ. Returns its path.
inline std::string head_table(int layers) {
  struct Written {  // once a process, in files of its own: tests run side by side
    std::set<std::string> paths;
    ~Written() {
      for (const auto& path : paths) std::remove(path.c_str());
    }
  };
  static Written written;
  const std::string path =
      testing::TempDir() + "kvreplay_heads_" + std::to_string(getpid()) + "_" + std::to_string(layers) + ".json";
  if (!written.paths.insert(path).second) return path;
  std::ofstream file(path);
  for (int l = 0; l < layers; ++l)
    for (int h = 0; h < 4; ++h)
      file << (l + h == 0 ? "{" : ", ") << '"' << l << '-' << h << "\": [" << (3 * l + 5 * h) % 7 << ", 0.5]";
  file << "}";
  return path;
}

// The keys that a policy cannot do without, written out: a table, sizes of its own that suit the small random traces.
inline std::string complete(const std::string& policy, int layers = 2) {
  if (policy == "lacache@original") return policy + ":size=40,start=4,span=1";
  if (policy.rfind("headkv@", 0) == 0 && policy.find(':') == std::string::npos)
    return policy + ":table=" + head_table(layers);
  return policy;
}

inline Rows evict(const MemoryTraceContents& contents, const std::string& policy, std::int64_t budget, int layer = 0) {
  const auto trace = make_memory_trace(contents);
  const auto backend = make_cpu_backend();
  LayerWorkspace workspace(*trace, layer, *backend);
  return rows_of(
      make_policy(parse_policy(complete(policy, contents.model.num_layers)))->evict(workspace, budget).evicted_at);
}

// evicted_at of a set that is kept when the prompt ends.
inline std::vector<std::int32_t> kept_once(const Shape& shape, const std::set<int>& kept) {
  std::vector<std::int32_t> row(static_cast<std::size_t>(shape.prompt + shape.steps), -1);
  for (int t = 0; t < shape.prompt; ++t) row[static_cast<std::size_t>(t)] = kept.count(t) != 0 ? -1 : 0;
  return row;
}

inline Shape shape_of(unsigned seed) {
  Shape shape;
  shape.layers = 2;
  shape.prompt = 90;
  shape.steps = 9;
  shape.seed = seed;
  return shape;
}

// Per-step policies: what a set-based simulation of their loop leaves, `choose(step, cached)` being the set after a step.
template <class Choose>
std::vector<std::int32_t> simulate(const Shape& shape, Choose choose) {
  std::vector<std::int32_t> row(static_cast<std::size_t>(shape.prompt + shape.steps), -1);
  std::set<int> cached;
  for (int t = 0; t < shape.prompt; ++t) cached.insert(t);
  for (int step = 0; step <= shape.steps; ++step) {
    if (step > 0) cached.insert(shape.prompt + step - 1);
    const std::set<int> kept = choose(step, cached);
    for (const int t : cached)
      if (kept.count(t) == 0) row[static_cast<std::size_t>(t)] = step;
    cached = kept;
  }
  return row;
}

}  // namespace kvreplay::reference
