// Policies that evict while decoding, in their authors' per-step forms: after the prompt and after every decode step they
// look at the attention over what they retained (never over the full cache) and drop what exceeds the budget.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/policy/stages/stages.h"

namespace kvreplay {

// One stored head's cache: the positions it holds, oldest first. Position and slot are different things: slots are the
// indices of `positions`.
struct RetainedSet {
  std::vector<std::int32_t> positions;

  static RetainedSet range(std::int64_t begin, std::int64_t end);  // positions [begin, end)
  // What the query of a decode step (from 1) sees with the full cache.
  static RetainedSet visible(const LayerWorkspace& layer, std::int64_t step);

  std::vector<std::int32_t> at(const std::vector<std::size_t>& slots) const;  // positions of these slots

  // Attention weights over the retained positions from one row of logits by position (decode_logits), in float64.
  std::vector<double> attention(const float* logits) const;
};

// Logits of the decode queries of one query head, [S, T]; shared by policies and budgets of the layer. Throws Error when a
// decode query was not recorded.
const Tensor<float, 2>& shared_decode_logits(LayerWorkspace& layer, int query_head);

// Causal attention received from all prompt queries, [Hq, n]: where accumulated attention starts.
const Array& causal_column_sums(LayerWorkspace& layer);

// Attention of the query of one decode step (from 1) over the retained positions, reduced over the query heads that share
// kept set `head` of `heads`.
std::vector<double> group_attention(LayerWorkspace& layer, std::int64_t head, std::int64_t heads, Reduction reduction,
                                    const RetainedSet& cache, std::int64_t step);

// Slots of the `count` largest of score[0, end), ties to the lowest slot, ascending.
std::vector<std::size_t> top_slots(const std::vector<double>& score, std::size_t end, std::size_t count);

// H2O's masking form (per_step_masked.cpp); heavy = recent = 0: by the budget.
std::unique_ptr<Policy> make_masked_h2o_policy(int heavy, int recent, Grouping grouping);

}  // namespace kvreplay
