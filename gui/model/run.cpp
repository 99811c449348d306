#include "gui/model/run.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace kvreplay::gui {
namespace {

constexpr double nothing = std::numeric_limits<double>::quiet_NaN();

// The mean over the cells of `values` [shape] whose index agrees with `at` (-1: any).
double mean_where(const MetricValues& values, const std::vector<std::int64_t>& at) {
  double total = 0;
  std::int64_t count = 0;
  for (std::size_t cell = 0; cell < values.values.size(); ++cell) {
    std::int64_t rest = static_cast<std::int64_t>(cell);
    bool agrees = true;
    for (std::size_t axis = values.shape.size(); axis-- > 0;) {
      agrees = agrees && (at[axis] < 0 || rest % values.shape[axis] == at[axis]);
      rest /= values.shape[axis];
    }
    if (!agrees || std::isnan(values.values[cell])) continue;
    total += values.values[cell];
    ++count;
  }
  return count > 0 ? total / static_cast<double>(count) : nothing;
}

}  // namespace

bool Run::kept(int layer_index, int query_head, std::int64_t token, int step) const {
  const auto layer = this->layer(layer_index);
  if (layer == nullptr || token >= prompt + step) return true;
  const std::int32_t at = layer->evicted_at()(row_of(query_head), token);
  return at < 0 || at > step;
}

std::int64_t Run::kept_count(int layer_index, int row, int step) const {
  const auto layer = this->layer(layer_index);
  if (layer == nullptr) return -1;
  const auto evicted_at = layer->evicted_at().view()[row].flat().first(static_cast<std::size_t>(prompt + step));
  return std::count_if(evicted_at.begin(), evicted_at.end(), [step](std::int32_t at) { return at < 0 || at > step; });
}

std::int64_t Run::evicted_count(int layer_index, int step) const {
  const auto layer = this->layer(layer_index);
  if (layer == nullptr) return 0;
  const auto all = layer->evicted_at().flat();
  return std::count(all.begin(), all.end(), step);
}

double Run::value(const std::string& metric, int layer_index, int query_head, int step) const {
  const auto layer = this->layer(layer_index);
  if (layer == nullptr) return nothing;
  const auto found = layer->metrics.find(metric);
  if (found == layer->metrics.end()) return nothing;
  const MetricValues& values = found->second;
  std::vector<std::int64_t> at;
  bool direct = true;
  std::int64_t offset = 0;
  for (std::size_t axis = 0; axis < values.axes.size(); ++axis) {
    std::int64_t index = -1;
    if (values.axes[axis] == "query_head") index = query_head;
    if (values.axes[axis] == "step") index = step < 0 ? -1 : step - 1;
    if (index >= values.shape[axis] || (values.axes[axis] == "step" && step == 0)) return nothing;
    direct = direct && index >= 0;
    offset = offset * values.shape[axis] + index;
    at.push_back(index);
  }
  return direct ? static_cast<double>(values.values[static_cast<std::size_t>(offset)]) : mean_where(values, at);
}

std::vector<std::string> Run::metric_names() const {
  std::set<std::string> names;
  for (const auto& layer : layers)
    if (layer != nullptr)
      for (const auto& [name, values] : layer->metrics) names.insert(name);
  return {names.begin(), names.end()};
}

}  // namespace kvreplay::gui
