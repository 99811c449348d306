// Which queries may score and which are judged, resolved for one trace. Internal to core/replay.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/base/job.h"
#include "core/replay/metric_sink_internal.h"
#include "core/replay/replay.h"

namespace kvreplay {

struct ReplayScope {
  std::string text;                    // "score context; judge generated"; empty: the trace as it is
  std::unique_ptr<Trace> view;         // null: the trace as it is
  std::vector<TextSpan> score, judge;  // empty: all queries before and after the eviction
  std::vector<bool> judged;            // [S] of the view; empty: all
};

// Throws Error for spans that the trace does not have, that leave nothing to judge, or whose queries it has not recorded.
ReplayScope resolve_scope(const Trace& trace, const ReplayRequest& request, Job& job);

}  // namespace kvreplay
