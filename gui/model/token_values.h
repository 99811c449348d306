// One number a token: what the token strip colours by.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gui/model/document.h"
#include "gui/model/layer_desk.h"
#include "gui/model/run.h"
#include "gui/model/state.h"

namespace kvreplay::gui {

enum class Quantity : std::uint8_t {
  kept,             // share of heads that hold the token after the step on screen
  evicted_at,       // mean over heads of the step after which it went; tokens that stay count as one step past the last
  score,            // share of a row's candidates that the policy scored lower, mean over rows
  attention,        // of the query on screen to the full cache, mean over heads
  attention_after,  // of the same query to what is left
  worth,            // mean squared head error that restoring it alone would take off the run (core/replay/worth.h)
};

// The query that a step on screen stands for: that of decode step max(1, step).
std::int64_t query_position(const Document& document, int step);

// The query heads of a selection: those that are chosen, or all of them.
std::vector<int> heads_of(const Document& document, const Selection& selection);

// Attention of the query at `position` to the full cache, one row a head: [position + 1], 0 where the query does not see the
// token. Throws Error when the query was not recorded.
std::vector<std::vector<float>> query_attention(const Document& document, int layer, const std::vector<int>& heads,
                                                std::int64_t position);

// What restoring each token alone would take off the run's mean squared head error, over all measured steps.
struct Worths {
  Tensor<float, 2> gain;      // [Hq, T]: error - restored error; NaN for tokens that no measured query misses
  std::vector<double> error;  // [Hq]: of the run as it is; 0 where nothing was evicted
};
// Throws Error for a run that changes rows (merging, compacted positions): single restorations are exact for others only.
Worths worths_of(LayerWorkspace& workspace, const RunInfo& info, const RunLayer& layer);

// [T], NaN where there is no such number: scores of tokens that are always kept, attention to tokens that come later.
// `run` may be null for Quantity::attention. Throws Error; for attention_after and worth also of a run that changes rows.
std::vector<float> token_values(Quantity quantity, const std::shared_ptr<const Document>& document, const Run* run,
                                const Selection& selection, LayerDesk& desk);

}  // namespace kvreplay::gui
