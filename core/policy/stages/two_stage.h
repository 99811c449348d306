// The two stages of CriticalKV as scores: what its indicator and its selection share.
#pragma once

#include <cstdint>
#include <vector>

#include "core/policy/stages/stages.h"

namespace kvreplay {

// The largest float32 for the first[h] best of each KV head, (score + epsilon) · projected_value_norms() for the others.
// scores [Hk, m], whose column 0 is the candidate first_column; the same shape comes back.
Array two_stage_scores(LayerWorkspace& layer, const Array& scores, std::int64_t first_column,
                       const std::vector<std::int64_t>& first, double epsilon);

}  // namespace kvreplay
