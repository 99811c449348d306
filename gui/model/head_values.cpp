#include "gui/model/head_values.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "core/base/parallel.h"
#include "core/report/metric_info.h"

namespace kvreplay::gui {
namespace {

constexpr float nothing = std::numeric_limits<float>::quiet_NaN();

bool is_for_heads(const MetricInfo& info) {
  return std::find(info.axes.begin(), info.axes.end(), "query_head") != info.axes.end() &&
         std::find(info.axes.begin(), info.axes.end(), "region") == info.axes.end();
}

// A row is counted once for all query heads that share it.
void put_kept_counts(const Run& run, int layer, int step, std::span<float> heads) {
  std::vector<float> counts(static_cast<std::size_t>(run.rows));
  for (int row = 0; row < run.rows; ++row)
    counts[static_cast<std::size_t>(row)] = static_cast<float>(run.kept_count(layer, row, step));
  for (int head = 0; head < run.query_heads; ++head)
    heads[static_cast<std::size_t>(head)] = counts[static_cast<std::size_t>(run.row_of(head))];
}

// What Run::value() says of each head, whose mean over steps reads every cell of the layer: here each cell is read once.
void put_metric(const Run& run, int layer, const std::string& name, int step, std::span<float> heads) {
  const auto known = run.layer(layer);
  const auto found = known->metrics.find(name);
  const bool by_step = found != known->metrics.end() && found->second.axes == std::vector<std::string>{"query_head", "step"};
  for (std::size_t head = 0; head < heads.size(); ++head) {
    if (step > 0 || !by_step) {
      heads[head] = static_cast<float>(run.value(name, layer, static_cast<int>(head), step > 0 ? step : -1));
      continue;
    }
    const auto steps = static_cast<std::size_t>(found->second.shape[1]);
    double total = 0;
    std::int64_t count = 0;
    for (const float value : std::span(found->second.values).subspan(head * steps, steps))
      if (!std::isnan(value)) total += value, ++count;
    if (count > 0) heads[head] = static_cast<float>(total / static_cast<double>(count));
  }
}

}  // namespace

const MetricInfo& head_quantity(const std::string& name) {
  static const MetricInfo kept_count = {
      .name = kept_count_name,
      .title = "Kept tokens",
      .unit = "tokens",
      .doc = "Tokens that the head's cache holds.",
      .axes = {"layer", "query_head", "step"},
      .direction = Direction::neither,
  };
  return name == kept_count_name ? kept_count : metric_info(name);
}

std::vector<std::string> head_quantities(const Run& run) {
  const std::vector<std::string> there = run.metric_names();
  std::vector<std::string> names;
  const auto add = [&](const std::string& name) {
    const bool known = std::find(there.begin(), there.end(), name) != there.end();
    if (known && is_for_heads(metric_info(name)) && std::find(names.begin(), names.end(), name) == names.end())
      names.push_back(name);
  };
  for (const std::string& name : metric_order()) add(name);
  for (const std::string& name : there) add(name);
  names.emplace_back(kept_count_name);
  return names;
}

Tensor<float, 2> head_values(const Run& run, const std::string& name, int step) {
  Tensor<float, 2> values({run.num_layers(), run.query_heads}, nothing);
  for (int layer = 0; layer < run.num_layers(); ++layer) {
    check_cancelled();
    if (run.layer(layer) == nullptr) continue;
    if (name == kept_count_name)
      put_kept_counts(run, layer, step, values[layer].flat());
    else
      put_metric(run, layer, name, step, values[layer].flat());
  }
  return values;
}

std::optional<HeadPlace> worst_head(const Tensor<float, 2>& values, const MetricInfo& info, bool difference) {
  if (info.direction == Direction::neither) return std::nullopt;
  const float sign = info.direction == Direction::lower_is_better ? 1.0F : -1.0F;
  std::optional<HeadPlace> worst;
  float most = 0;
  for (int layer = 0; layer < values.dim(0); ++layer)
    for (int head = 0; head < values.dim(1); ++head) {
      const float badness = sign * values(layer, head);
      // A difference that is nowhere to the bad side has no worst head.
      if (std::isnan(badness) || (difference && badness <= 0) || (worst && badness <= most)) continue;
      worst = HeadPlace{layer, head};
      most = badness;
    }
  return worst;
}

Tensor<float, 3> head_maps(const Run& run, int step, std::int64_t stretches) {
  Tensor<float, 3> maps({run.num_layers(), run.query_heads, stretches}, nothing);
  const std::int64_t there = run.prompt + step;
  for (int layer = 0; layer < run.num_layers(); ++layer) {
    check_cancelled();
    const auto known = run.layer(layer);
    if (known == nullptr) continue;
    for (int row = 0; row < run.rows; ++row) {
      const std::int32_t* evicted_at = known->evicted_at().data() + row * run.tokens;
      const int first = row * run.query_heads / run.rows, end = (row + 1) * run.query_heads / run.rows;
      for (std::int64_t stretch = 0; stretch < stretches; ++stretch) {
        const std::int64_t from = stretch * there / stretches, to = (stretch + 1) * there / stretches;
        if (from >= to) continue;
        const auto kept =
            std::count_if(evicted_at + from, evicted_at + to, [step](std::int32_t at) { return at < 0 || at > step; });
        for (int head = first; head < end; ++head)
          maps(layer, head, stretch) = static_cast<float>(kept) / static_cast<float>(to - from);
      }
    }
  }
  return maps;
}

}  // namespace kvreplay::gui
