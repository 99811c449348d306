// How runs with one token changed are checked and compared with the run that they change. Internal to core/replay.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/policy/policy.h"
#include "core/replay/edit.h"
#include "core/replay/metric_sink_internal.h"

namespace kvreplay {

// Throws Error for a token, layer or row that the trace or the policy does not have.
void check_edit(const TokenEdit& edit, const Trace& trace, const Policy& policy, const std::string& label);
// The error of an edit that changed nothing.
[[noreturn]] void refuse_edit(const TokenEdit& edit, const Trace& trace, const std::string& label, std::int64_t budget);

// One layer's mean errors over the measured steps; NaN where they were not measured.
struct LayerErrors {
  double output = 0;         // output_error, or output_error_unprojected
  std::vector<double> head;  // [Hq] head_output_error
};
LayerErrors layer_errors(const MetricTable& table, const MetricSink& sink, std::size_t run, std::int64_t steps);

// edit.output_error.before and .after: means over the layers that the edit touches; edit.head_output_error.before and
// .after: over the query heads that read the changed rows. What was not measured has no key.
void summarise_edit(const TokenEdit& edit, const Trace& trace, Granularity granularity,
                    const std::vector<LayerErrors>& before, const std::vector<LayerErrors>& after,
                    std::map<std::string, double>& summary);

}  // namespace kvreplay
