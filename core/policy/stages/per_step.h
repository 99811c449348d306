// Policies that evict while decoding, in their authors' per-step forms: after the prompt and after every decode step they
// look at the attention over what they retained (never over the full cache) and drop what exceeds the budget.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/policy/layer_workspace.h"

namespace kvreplay {

// One stored head's cache: the positions it holds, oldest first. Position and slot are different things: slots are the
// indices of `positions`.
struct RetainedSet {
  std::vector<std::int32_t> positions;

  // Attention weights over the retained positions from one row of logits by position (decode_logits), in float64.
  std::vector<double> attention(const float* logits) const;
};

// Logits of the decode queries of one query head, [S, T]; shared by policies and budgets of the layer. Throws Error when a
// decode query was not recorded.
const Tensor<float, 2>& shared_decode_logits(LayerWorkspace& layer, int query_head);

// Slots of the `count` largest of score[0, end), ties to the lowest slot, ascending.
std::vector<std::size_t> top_slots(const std::vector<double>& score, std::size_t end, std::size_t count);

}  // namespace kvreplay
