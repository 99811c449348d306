// The two stages of CriticalKV as scores: what its indicator and its selection share.
#pragma once

#include <cstdint>
#include <vector>

#include "core/policy/stages/stages.h"

namespace kvreplay {

// The largest float32 for the first[h] best of each head, (score + epsilon) · factors for the others. All [H, m], factors
// [H, at least m].
Array two_stage_scores(LayerWorkspace& layer, const Array& scores, const Array& factors,
                       const std::vector<std::int64_t>& first, double epsilon);

}  // namespace kvreplay
