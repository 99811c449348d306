#include "gui/model/time_line.h"

#include <cmath>
#include <set>

namespace kvreplay::gui {
namespace {

constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

std::set<int> rows_of(const Run& run, const std::vector<int>& heads) {
  std::set<int> rows;
  for (const int head : heads) rows.insert(run.row_of(head));
  if (heads.empty())
    for (int row = 0; row < run.rows; ++row) rows.insert(row);
  return rows;
}

std::vector<std::int64_t> evictions(const Run& run, const RunLayer& layer, const std::vector<int>& heads) {
  std::vector<std::int64_t> count(static_cast<std::size_t>(run.steps) + 1, 0);
  for (const int row : rows_of(run, heads))
    for (const std::int32_t at : layer.evicted_at().view()[row].flat())
      if (at >= 0 && at <= run.steps) ++count[static_cast<std::size_t>(at)];
  return count;
}

double error_at(const Run& run, int layer, const std::vector<int>& heads, const std::string& metric, int step) {
  if (heads.empty()) return run.value(metric, layer, -1, step);
  double total = 0;
  int known = 0;
  for (const int head : heads) {
    const double value = run.value(metric, layer, head, step);
    if (std::isnan(value)) continue;
    total += value;
    ++known;
  }
  return known > 0 ? total / known : unknown;
}

}  // namespace

TimeLine time_line(const Run& run, int layer_index, const std::vector<int>& heads) {
  TimeLine line;
  const auto layer = run.layer(layer_index);
  if (layer == nullptr) return line;
  line.evicted = evictions(run, *layer, heads);
  const std::vector<const char*> metrics = heads.empty()
                                               ? std::vector<const char*>{"output_error", "output_error_unprojected"}
                                               : std::vector<const char*>{"head_output_error"};
  for (const char* metric : metrics)
    if (line.error_metric.empty() && layer->metrics.count(metric) != 0) line.error_metric = metric;
  line.error.assign(static_cast<std::size_t>(run.steps) + 1, unknown);
  if (!line.error_metric.empty())
    for (int step = 1; step <= run.steps; ++step)
      line.error[static_cast<std::size_t>(step)] = error_at(run, layer_index, heads, line.error_metric, step);
  return line;
}

}  // namespace kvreplay::gui
