// What differs between two traces or two results files, ranked by how much it matters: another model or other weights
// explain everything below them, so they come first.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/base/job.h"
#include "core/trace/trace.h"

namespace kvreplay {

struct Difference {
  int rank = 0;        // 0 matters most: see the list in compare.cpp
  std::string where;   // "manifest: model", "/layers/003/key", "run snapkv, budget 64"
  std::string what;    // one line
  bool counts = true;  // false: provenance only (when and by which command line), which says nothing about the contents
  // Of tensors and metrics: the largest absolute difference, the same relative to the largest magnitude in the first
  // file, and the first place that differs, as "[head, row, column]".
  std::optional<double> max_absolute, max_relative;
  std::string first_position;
};

struct CompareOptions {
  // Tensors and metrics differ when |a - b| is above this share of the largest magnitude of the first file's tensor.
  double tolerance = 0;
  Trust trust = Trust::automatic;
};

// Throws Error when a file cannot be read, or when one is a trace and the other results. Most important first.
std::vector<Difference> compare_files(const std::string& path_a, const std::string& path_b, const CompareOptions& options,
                                      Job& job);

}  // namespace kvreplay
