// Where the attention of the query on screen goes when tokens are gone, for one head or as a mean over several: the numbers
// of core/report/redistribution.h put together for a panel.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/metric/metric.h"
#include "gui/model/document.h"
#include "gui/model/run.h"
#include "gui/model/state.h"

namespace kvreplay::gui {

// Of one head: evicted mass × value displacement = ‖o' - o‖, exactly.
struct ErrorFactors {
  int head = 0;
  double evicted_mass = 0;        // 1 - m
  double value_displacement = 0;  // ‖o' - o_E‖
  double difference = 0;          // ‖o' - o‖
  double output_norm = 0;         // ‖o‖
  double relative = 0;            // head_output_error
};

struct MovedToken {
  std::int64_t token = 0;
  double before = 0, after = 0;  // means over the heads; after: 0 where every head evicted it
  double evicted = 0;            // share of the heads that evicted it
};

struct RunRedistribution {
  std::vector<ErrorFactors> heads;
  std::array<double, num_regions> before{}, after{};  // means over the heads
  std::vector<MovedToken> receivers;                  // of the tokens some head keeps, those that gain most attention
  std::vector<MovedToken> lost;                       // of the tokens some head evicted, those that lose most
  std::int64_t evicted = 0;                           // tokens that at least one head evicted

  // Means over the heads.
  double evicted_mass() const;
  double relative() const;
};

// For the query that the selection's step stands for (query_position()), `count` tokens in either list. Throws Error where
// the query was not recorded, and for a run that changes rows (merging, compacted positions): it has other keys and values.
RunRedistribution run_redistribution(const Document& document, const Run& run, const Selection& selection, int count);

}  // namespace kvreplay::gui
