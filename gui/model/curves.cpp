#include "gui/model/curves.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/report/policy_label.h"
#include "core/report/statistics.h"

namespace kvreplay::gui {
namespace {

Curve curve_of(const Run& run) {
  Curve curve;
  curve.name = run.label;
  curve.policy = policy_label(run.info.policy);
  curve.bound = is_hindsight_bound(run.info.preset);
  return curve;
}

CurvePoint point_of(std::int64_t budget, const std::map<std::string, double>& by_trace) {
  std::vector<double> values;
  for (const auto& [trace, value] : by_trace) values.push_back(value);
  CurvePoint point;
  point.x = static_cast<double>(budget);
  point.y = distribution_of(values).mean;
  const kvreplay::Interval interval = bootstrap_mean(values);
  point.low = interval.low, point.high = interval.high;
  return point;
}

}  // namespace

std::vector<Curve> curves_by_budget(const std::vector<RunInfo>& runs, const std::string& metric) {
  struct Policy {
    Curve curve;
    std::map<std::int64_t, std::map<std::string, double>> values;  // by budget, then by trace
  };
  std::vector<Policy> policies;
  for (const RunInfo& run : runs) {
    const auto value = run.summary.find(metric);
    if (value == run.summary.end() || std::isnan(value->second) || keeps_everything(run.preset)) continue;
    const std::string label = policy_label(run.policy);
    auto policy =
        std::find_if(policies.begin(), policies.end(), [&](const Policy& each) { return each.curve.policy == label; });
    if (policy == policies.end()) {
      policies.push_back({{label, label, is_hindsight_bound(run.preset), {}}, {}});
      policy = policies.end() - 1;
    }
    policy->values[run.budget][run.trace_sha256.empty() ? run.trace : run.trace_sha256] = value->second;
  }
  std::vector<Curve> curves;
  for (Policy& policy : policies) {
    for (const auto& [budget, by_trace] : policy.values) policy.curve.points.push_back(point_of(budget, by_trace));
    curves.push_back(std::move(policy.curve));
  }
  return curves;
}

std::vector<Curve> curves_by_layer(const std::vector<std::shared_ptr<const Run>>& runs, const std::string& metric,
                                   const std::vector<int>& layer_numbers) {
  std::vector<Curve> curves;
  for (const auto& run : runs) {
    Curve curve = curve_of(*run);
    for (int layer = 0; layer < run->num_layers(); ++layer)
      if (const double value = run->value(metric, layer, -1, -1); !std::isnan(value))
        curve.points.push_back({static_cast<double>(layer_numbers[static_cast<std::size_t>(layer)]), value});
    if (!curve.points.empty()) curves.push_back(std::move(curve));
  }
  return curves;
}

std::vector<Curve> curves_by_step(const std::vector<std::shared_ptr<const Run>>& runs, const std::string& metric, int layer,
                                  int query_head) {
  std::vector<Curve> curves;
  for (const auto& run : runs) {
    Curve curve = curve_of(*run);
    for (int step = 1; step <= run->steps; ++step)
      curve.points.push_back({static_cast<double>(step), run->value(metric, layer, query_head, step)});
    if (std::any_of(curve.points.begin(), curve.points.end(), [](const CurvePoint& point) { return !std::isnan(point.y); }))
      curves.push_back(std::move(curve));
  }
  return curves;
}

}  // namespace kvreplay::gui
