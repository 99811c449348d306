// What the kernels of evaluate() work on at once, and what they leave for the host. Internal to gpu.
//
// A block is some KV heads at some consecutive decode steps. Its rows are pairs of query head and step: row g · steps + s of
// KV head k is query head k · G + g at step first_step + s. Its columns are the positions that any of its rows sees.
// Matrices of weights are stored by token, [KV heads, columns, rows]: what a run keeps is then a set of whole rows of
// memory, read without gaps, each with all query heads and steps that share a token.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/backend/evaluation.h"

namespace kvreplay::cuda {

struct EvaluationBlock {
  int first_kv_head = 0, kv_heads = 0;
  int group = 1;            // G
  int num_query_heads = 0;  // Hq, of the layer
  int dim = 0;              // d
  int first_step = 0, steps = 0;
  int prompt = 0;              // P
  int sliding_window = 0;      // 0: none
  int origin = 0;              // position of column 0
  int columns = 0;             // up to the position of the last row
  int regions[num_regions]{};  // first position of each region

  constexpr int rows() const { return group * steps; }
  constexpr int step(int row) const { return first_step + row % steps; }
  constexpr int position(int row) const { return prompt + step(row); }
  constexpr int first_visible(int position) const {
    return sliding_window > 0 && position >= sliding_window ? position - sliding_window + 1 : 0;
  }
  constexpr int query_head(int kv_head, int row) const { return (first_kv_head + kv_head) * group + row / steps; }
  // Elements of a matrix [KV heads, columns, rows].
  constexpr std::int64_t weights() const { return static_cast<std::int64_t>(kv_heads) * columns * rows(); }
};

// Of one row, whatever is kept.
struct RowSummary {
  double total;              // Σ exp(z - top)
  double others;             // the same without the largest
  double entropy;            // nats
  double mass[num_regions];  // shares of each region
  double single_total;       // Σ of the errors of single removals
  double output_norm;        // ‖o‖
  float top;                 // largest logit
  std::int32_t largest;      // its column; -1: the query was not recorded, and nothing else holds
};

// Of one row of one run. The sums behind it are float64; here they are rounded once, since a thousand runs bring millions of
// these to the host.
struct KeptCell {
  float evicted_mass, divergence, difference_norm, displacement, single_removal_sum;
  float mass_after[num_regions];
  std::int32_t kept;    // |K|
  std::int32_t shared;  // of the |K| largest weights, those that are in K
};

// What one stored head of a run keeps: positions [offset, offset + count) of the uploaded lists, ascending.
// Not timed: prompt positions that stay for good; every generated token stays too and is not listed.
// Timed: all that is there when the prompt ends or comes later, followed by `count` numbers evicted_at (INT_MAX: never).
struct KeptList {
  std::int64_t offset = 0;
  std::int32_t count = 0;
  std::int32_t timed = 0;
};

}  // namespace kvreplay::cuda
