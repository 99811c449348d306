// Causal attention of a block of queries over all keys so far, with what the taps want: outputs, log-sum-exps, column sums
// and single rows.
#pragma once

#include <cstdint>
#include <span>

#include "core/base/tensor.h"

namespace kvreplay {

struct AttentionBlock {
  TensorView<const float, 3> query;  // [Hq, n, d]; the queries of positions first ... first + n - 1
  std::int64_t first = 0;
  // Keys and values of positions 0 ... first + n - 1: [Hk, capacity, d], of which the first rows are used.
  TensorView<const float, 3> key, value;
  double scale = 1;
  double softcap = 0;               // 0: none
  std::int64_t window = 0;          // 0: none
  std::int64_t summed_queries = 0;  // the first so many queries count in column sums
  // Which queries' weights are written to `weights`, as indices into the block, ascending.
  std::span<const std::int64_t> rows;

  TensorView<float, 3> output;       // [Hq, n, d]
  TensorView<float, 2> log_sum_exp;  // [Hq, n]
  TensorView<float, 2> column_sum;   // [Hq, first + n], overwritten; not touched when summed_queries is 0
  TensorView<float, 3> weights;      // [Hq, rows.size(), first + n], overwritten
};

// On all threads; results do not depend on their number.
void attend(const AttentionBlock& block);

}  // namespace kvreplay
