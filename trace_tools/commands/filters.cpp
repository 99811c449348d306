#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/policy/query_filters.h"
#include "trace_tools/command.h"

namespace kvreplay::cli {
namespace {

class FiltersCommand final : public Command {
 public:
  std::string_view name() const override { return "filters"; }
  std::string_view summary() const override { return "derive the query filters of a model from its traces, for qfilter"; }
  std::string_view usage() const override { return "TRACE... --out FILTERS.json [--samples N] [--seed N]"; }
  std::string_view description() const override {
    return "For each layer and query head: the first right singular vector of a random sample of the recorded queries "
           "(after\n"
           "RoPE), turned against most of them; the mean over the heads of a KV head is its filter. All traces must be of "
           "one\n"
           "model. The policy qfilter reads the file:\n"
           "\n"
           "  kvreplay filters a.h5 b.h5 c.h5 --out filters.json\n"
           "  kvreplay replay d.h5 --policy qfilter:filters=filters.json --budget 25% --out r.h5";
  }
  void declare(options::options_description& visible, options::options_description& hidden,
               options::positional_options_description& positional) const override {
    visible.add_options()("out", options::value<std::string>()->value_name("FILTERS.json"), "the file to write");
    visible.add_options()("samples", options::value<int>()->value_name("N")->default_value(3000),
                          "queries of each head that are used, chosen at random; all where there are no more");
    visible.add_options()("seed", options::value<int>()->value_name("N")->default_value(0), "of that choice");
    visible.add_options()("trusted", "read traces in this process even when this machine did not write them");
    hidden.add_options()("trace", options::value<std::vector<std::string>>(), "");
    positional.add("trace", -1);
  }

  int run(const Invocation& call) const override {
    require(call, *this, "trace", "a trace file");
    require(call, *this, "out", "--out FILTERS.json");
    const int samples = call.values["samples"].as<int>(), seed = call.values["seed"].as<int>();
    if (samples < 1) throw Error("--samples", "must be at least 1");
    if (seed < 0) throw Error("--seed", "must be at least 0");
    const Trust trust = call.values.count("trusted") != 0 ? Trust::trusted : Trust::automatic;
    std::vector<std::unique_ptr<Trace>> traces;
    std::vector<const Trace*> views;
    for (const auto& path : call.values["trace"].as<std::vector<std::string>>()) {
      traces.push_back(open_trace(path, trust));
      views.push_back(traces.back().get());
    }
    const QueryFilters filters = derive_query_filters(views, samples, seed, call.job);
    const auto out = call.values["out"].as<std::string>();
    write_query_filters(out, filters);
    if (call.json) {
      const nlohmann::ordered_json json = {{"out", out},
                                           {"model", filters.model},
                                           {"layers", filters.layers.size()},
                                           {"num_kv_heads", filters.num_kv_heads},
                                           {"head_dim", filters.head_dim},
                                           {"samples", samples},
                                           {"seed", seed},
                                           {"sequences", filters.sequences}};
      std::printf("%s\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    } else {
      std::printf("%s: filters of %zu layers with %d KV heads each, from %d text%s\n", printable(out).c_str(),
                  filters.layers.size(), filters.num_kv_heads, filters.sequences, filters.sequences == 1 ? "" : "s");
    }
    return 0;
  }
};

}  // namespace

const Command& filters_command() {
  static const FiltersCommand command;
  return command;
}

}  // namespace kvreplay::cli
