// Errors as lines: against the budget, by layer, by step, of several runs and policies.
#pragma once

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "core/trace/results.h"
#include "gui/model/run.h"
#include "gui/model/state.h"

namespace kvreplay::gui {

struct CurvePoint {
  static constexpr double none = std::numeric_limits<double>::quiet_NaN();
  double x = 0, y = none;
  double low = none, high = none;  // 95 % interval of the mean over traces, where there are several
};

struct Curve {
  std::string name;
  std::string policy;              // as a label without the budget; what a colour belongs to
  bool bound = false;              // computed in hindsight: nothing deployable is expected to reach it
  std::vector<CurvePoint> points;  // by x
};

// One curve a policy over the tokens a head holds. Several runs of a policy at the same budget on different traces become
// their mean with its interval; on the same trace the last one counts. Runs without a summary of the metric are left out.
std::vector<Curve> curves_by_budget(const std::vector<RunInfo>& runs, const std::string& metric);

// One curve a run, over the layers (their numbers in the model), each a mean over heads and steps. The runs are of one
// trace, whose layers these are. Layers that are not there yet are left out.
std::vector<Curve> curves_by_layer(const std::vector<std::shared_ptr<const Run>>& runs, const std::string& metric,
                                   const std::vector<int>& layer_numbers);

// One curve a run, over the decode steps of one layer: of one head, or the mean over heads (-1).
std::vector<Curve> curves_by_step(const std::vector<std::shared_ptr<const Run>>& runs, const std::string& metric, int layer,
                                  int query_head);

}  // namespace kvreplay::gui
