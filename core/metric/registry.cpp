#include "core/base/error.h"
#include "core/base/text.h"
#include "core/metric/metric.h"

namespace kvreplay {

#define KVREPLAY_METRIC(name) const Metric& name##_metric();
#include "core/metric/metrics.def"
#undef KVREPLAY_METRIC

const std::vector<const Metric*>& metric_registry() {
  static const std::vector<const Metric*> all = {
#define KVREPLAY_METRIC(name) &name##_metric(),
#include "core/metric/metrics.def"
#undef KVREPLAY_METRIC
  };
  return all;
}

const Metric& find_metric(const std::string& name) {
  std::vector<std::string> names;
  for (const Metric* metric : metric_registry()) {
    if (metric->info().name == name) return *metric;
    names.push_back(metric->info().name);
  }
  const std::string guess = closest(name, names);
  throw Error("--metrics", "unknown metric \"" + name + "\"",
              guess.empty() ? "`kvreplay metrics` lists them" : "did you mean \"" + guess + "\"?");
}

}  // namespace kvreplay
