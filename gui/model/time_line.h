// What happens to one layer from step to step: how many tokens are evicted, and how far the output is off.
#pragma once

#include <string>
#include <vector>

#include "gui/model/run.h"

namespace kvreplay::gui {

struct TimeLine {
  std::vector<std::int64_t>
      evicted;                // [S + 1]: at step 0, when the prompt ended, to S, over the rows of the heads asked for
  std::vector<double> error;  // [S + 1]: of the query after the step's eviction; NaN at step 0 and where none is known
  std::string error_metric;   // which metric it is; empty where the run has none
};

// heads: query heads; empty: all, and then the error is the layer's, through W_o where the trace has it. Empty vectors while
// the layer is not there.
TimeLine time_line(const Run& run, int layer, const std::vector<int>& heads);

}  // namespace kvreplay::gui
