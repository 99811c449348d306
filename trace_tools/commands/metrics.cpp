#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/base/text.h"
#include "core/metric/metric.h"
#include "trace_tools/command.h"

namespace kvreplay::cli {
namespace {

std::string direction_of(const MetricInfo& info) {
  switch (info.direction) {
    case Direction::lower_is_better: return "lower is better";
    case Direction::higher_is_better: return "higher is better";
    case Direction::neither: break;
  }
  return "";
}

class MetricsCommand final : public Command {
 public:
  std::string_view name() const override { return "metrics"; }
  std::string_view summary() const override { return "what a replay measures, with definitions"; }
  std::string_view usage() const override { return "[--json]"; }
  std::string_view description() const override {
    return "Lists every metric: its name (for `replay --metrics`), its shape and its definition. Symbols: a attention with "
           "the\n"
           "full cache, m the mass of the kept tokens, a' and o' attention and head output after eviction, o_E the output "
           "of\n"
           "the evicted tokens alone, W_h the block of W_o of one head. Every mean comes with the median and the 95th and "
           "99th\n"
           "percentile over heads in `kvreplay report`.";
  }
  void declare(options::options_description&, options::options_description&,
               options::positional_options_description&) const override {}

  int run(const Invocation& call) const override {
    if (call.json) {
      nlohmann::ordered_json out = nlohmann::ordered_json::array();
      for (const Metric* metric : metric_registry()) {
        const MetricInfo& info = metric->info();
        out.push_back({{"name", info.name},
                       {"title", info.title},
                       {"unit", info.unit},
                       {"axes", info.axes},
                       {"direction", direction_of(info)},
                       {"definition", info.doc}});
      }
      std::printf("%s\n", out.dump(2).c_str());
      return 0;
    }
    for (const Metric* metric : metric_registry()) {
      const MetricInfo& info = metric->info();
      const std::string direction = direction_of(info);
      std::printf("%s  [%s]%s%s%s\n    %s\n", info.name.c_str(), join(info.axes, ", ").c_str(),
                  info.unit.empty() ? "" : (" " + info.unit).c_str(), direction.empty() ? "" : ", ", direction.c_str(),
                  info.doc.c_str());
    }
    return 0;
  }
};

}  // namespace

const Command& metrics_command() {
  static const MetricsCommand command;
  return command;
}

}  // namespace kvreplay::cli
