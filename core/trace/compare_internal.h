// The parts of compare_files. Internal to core/trace.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/trace/compare.h"

namespace kvreplay {

// From what explains everything else to what explains nothing.
enum ComparisonRank : int {
  rank_model = 0,        // weights, architecture, sizes
  rank_tokens = 1,       // tokenizer, template, truncation, ids
  rank_computation = 2,  // element types, attention path, seed, layers and queries recorded
  rank_policy = 3,       // results: runs, budgets, evicted sets
  rank_values = 4,       // tensors, metrics
  rank_text = 5,         // spans, token texts
  rank_program = 6,      // program version
  rank_provenance = 7,   // when, and by which command line
};

class Differences {
 public:
  void add(int rank, const std::string& where, const std::string& what) {
    all.push_back({rank, where, what, true, {}, {}, {}});
  }
  void add_provenance(const std::string& where, const std::string& what) {
    all.push_back({rank_provenance, where, what, false, {}, {}, {}});
  }
  // "1 in A, 2 in B" when they differ.
  template <class T>
  void compare(int rank, const std::string& where, const T& a, const T& b);

  std::vector<Difference> all;
};

std::string shown(const std::string& text);  // quoted, shortened
std::string shown(std::int64_t value);
std::string shown(double value);
std::string shown(const std::optional<double>& value);

template <class T>
void Differences::compare(int rank, const std::string& where, const T& a, const T& b) {
  if (a == b) return;
  const std::string what = shown(a) + " against " + shown(b);
  rank == rank_provenance ? add_provenance(where, what) : add(rank, where, what);
}

// Largest differences between two arrays that are given block by block.
class ValueComparison {
 public:
  // NaN equals NaN. `index` of the first element of this block in the whole.
  void add(const float* a, const float* b, std::size_t count, std::int64_t index);
  bool differs(double tolerance) const;
  double max_absolute() const { return max_absolute_; }
  double max_relative() const { return largest_ > 0 ? max_absolute_ / largest_ : max_absolute_; }
  std::int64_t first() const { return first_; }
  std::int64_t count() const { return count_; }

 private:
  double max_absolute_ = 0, largest_ = 0;
  std::int64_t first_ = -1, count_ = 0;
  bool mismatched_nan_ = false;
};

// "[3, 0, 17]" of a row-major index.
std::string position_text(std::int64_t index, const std::vector<std::int64_t>& shape);

void compare_traces(const std::string& a, const std::string& b, const CompareOptions& options, Differences& out, Job& job);
void compare_results(const std::string& a, const std::string& b, const CompareOptions& options, Differences& out, Job& job);

}  // namespace kvreplay
