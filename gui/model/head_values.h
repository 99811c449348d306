// One number, or one small map, for every layer and query head of a run: what the head grid shows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/tensor.h"
#include "core/metric/metric.h"
#include "gui/model/run.h"

namespace kvreplay::gui {

// Tokens that a head's cache holds. Beside the metrics, which have names of their own.
inline constexpr const char* kept_count_name = "kept_count";

// Of a metric, or of kept_count_name, which has the axes of one.
const MetricInfo& head_quantity(const std::string& name);
// What the run's layers have for each head, and kept_count_name: headlines first, as in reports.
std::vector<std::string> head_quantities(const Run& run);

// [layers, query heads], NaN where it is not measured (yet). step counts from 1; 0: the mean over steps, for kept_count the
// count when the prompt ended.
Tensor<float, 2> head_values(const Run& run, const std::string& name, int step);

struct HeadPlace {
  int layer = 0, head = 0;
};
// The head that is farthest to the bad side; none where there is no value, or no side is better. difference: b - a.
std::optional<HeadPlace> worst_head(const Tensor<float, 2>& values, const MetricInfo& info, bool difference);

// [layers, query heads, stretches]: the share of the tokens of each stretch of the text, as far as it is there after `step`,
// that the head still holds. NaN where a layer is missing.
Tensor<float, 3> head_maps(const Run& run, int step, std::int64_t stretches);

}  // namespace kvreplay::gui
