#include "core/report/metric_info.h"

#include <map>
#include <mutex>

namespace kvreplay {

const MetricInfo& metric_info(const std::string& name) {
  static std::map<std::string, MetricInfo> unknown;
  static std::mutex guard;
  for (const Metric* metric : metric_registry())
    if (metric->info().name == name) return metric->info();
  const std::lock_guard lock(guard);
  MetricInfo& info = unknown[name];
  info.name = info.title = name;
  info.direction = Direction::neither;
  return info;
}

const std::vector<std::string>& metric_order() {
  static const std::vector<std::string> order = [] {
    std::vector<std::string> names;
    for (bool headline : {true, false})
      for (const Metric* metric : metric_registry())
        if (metric->info().headline == headline) names.push_back(metric->info().name);
    return names;
  }();
  return order;
}

}  // namespace kvreplay
