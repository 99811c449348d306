// What reports say of a metric, also of one that this program does not know (a file from a newer one).
#pragma once

#include <string>
#include <vector>

#include "core/metric/metric.h"

namespace kvreplay {

// The registry's entry, or one that has nothing but the name.
const MetricInfo& metric_info(const std::string& name);
// Known names in the order of tables: those of the short tables first.
const std::vector<std::string>& metric_order();

inline bool higher_is_better(const MetricInfo& info) { return info.direction == Direction::higher_is_better; }

}  // namespace kvreplay
