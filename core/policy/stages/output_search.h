// Which tokens of a head keep its future outputs closest to what the full cache gives: the search behind oracle_output.
//
// For one kept set K, the query heads q that share it and the decode steps s, with full-cache attention a and W_q the
// head's block of W_o, what is minimised is
//
//   J(K) = Σ_q Σ_s ‖W_q (o'_s - o_s)‖²,   o'_s - o_s = R_s / D_s,   R_s = Σ_K a_i (v_i - o_s),   D_s = Σ_K a_i
//
// where K always holds the generated tokens. Adding or removing one token changes R and D by one term, so that a
// candidate's J costs a handful of operations a step once R · W_q(v_j - o) is known; that product is kept up to date from
// the distances between values. Two greedy orders are made, each with J after every step: from the generated tokens
// alone, adding what lowers J most; and from the full cache, removing what raises it least. O(S n²) for each query head.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/tensor.h"

namespace kvreplay {

// One query head. d' rows of W_q's factor (W_qᵀ W_q = Fᵀ F), or d without a projection.
struct OutputTerm {
  Tensor<float, 2> attention;         // [S, n]: of the candidates, 0 where a step does not see one
  Tensor<float, 2> value;             // [n, d']: F v
  Tensor<double, 2> output;           // [S, d']: F o
  std::vector<double> fixed_mass;     // [S]: Σ a over what is always kept
  Tensor<double, 2> fixed_deviation;  // [S, d']: Σ a F(v - o) over the same
};

// A greedy order of the n candidates.
struct GreedyOrder {
  std::vector<std::int32_t> column;  // in the order of adding, or of removing
  std::vector<double> objective;     // [n + 1]: J with 0 … n candidates kept
};

enum class GreedyDirection : std::uint8_t { adding, removing };

GreedyOrder greedy_order(const std::vector<OutputTerm>& terms, GreedyDirection direction);

// J of any set of columns, from its definition.
double output_objective(const std::vector<OutputTerm>& terms, const std::vector<std::int32_t>& kept);

}  // namespace kvreplay
