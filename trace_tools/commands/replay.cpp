#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/replay/replay.h"
#include "trace_tools/command.h"

namespace kvreplay::cli {
namespace {

using Strings = std::vector<std::string>;

// "a,b" and repeated options alike.
Strings listed(const options::variables_map& values, const char* name) {
  Strings out;
  if (values.count(name) == 0) return out;
  for (const auto& value : values[name].as<Strings>())
    for (const auto& part : split(value, ',')) out.push_back(part);
  return out;
}

// A granularity asked for on the command line holds for every policy that has the parameter.
std::string with_granularity(const std::string& policy, const std::string& granularity) {
  const PolicySpec spec = parse_policy(policy);
  if (!spec.values.has("granularity")) {
    if (make_policy(spec)->granularity() != Granularity::layer && spec.description->name != "full")
      throw Error("--granularity", spec.label() + " has one of its own and no such parameter",
                  "leave --granularity out, or this policy");
    return policy;
  }
  for (const auto& key : spec.given)
    if (key == "granularity") return policy;
  return policy + (policy.find(':') == std::string::npos ? ":" : ",") + "granularity=" + granularity;
}

nlohmann::ordered_json json_of(const RunInfo& run) {
  return {{"policy", run.policy},
          {"budget", run.budget},
          {"budget_text", run.budget_text},
          {"equal_bytes", run.equal_bytes},
          {"granularity", run.granularity},
          {"trace", run.trace},
          {"cache_bytes", run.cache_bytes},
          {"full_cache_bytes", run.full_cache_bytes},
          {"peak_cache_bytes", run.peak_cache_bytes},
          {"kept_sha256", run.kept_sha256},
          {"seconds", run.seconds},
          {"summary", run.summary},
          {"notes", run.notes}};
}

class ReplayCommand final : public Command {
 public:
  std::string_view name() const override { return "replay"; }
  std::string_view summary() const override { return "what policies would have evicted from a trace, and what that costs"; }
  std::string_view usage() const override {
    return "TRACE... --policy P [--policy P...] --budget N[,N|10%|2MiB...] --out R.h5 [options]";
  }
  std::string_view description() const override {
    return "Replays traces through every policy at every budget and writes when each token was evicted and all metrics to "
           "one\n"
           "results file. Work that policies and budgets share is done once.\n"
           "\n"
           "  kvreplay replay t.h5 --policy restkv --policy snapkv --policy full --budget 64,128,10% --out r.h5\n"
           "  kvreplay replay t.h5 --policy restkv@released:alpha=0.5 --budget 2MiB --metrics output_error --out r.h5\n"
           "\n"
           "A budget is tokens per stored head when the prompt ends, window and sinks included; a share of the prompt; or "
           "bytes of\n"
           "the whole cache. With --equal-bytes it is bytes for every policy (256: those of 256 tokens in every KV head of "
           "every\n"
           "layer), and each gets the budget in tokens at which its cache really takes that much and no more: sets per "
           "query\n"
           "head, pyramids, skipped layers and whole chunks cost what they cost.\n"
           "\n"
           "  kvreplay replay t.h5 --policy snapkv --policy snapkv@released --budget 256 --equal-bytes --out r.h5\n"
           "\n"
           "Runs are numbered by trace, then policy, then budget. `kvreplay policies` lists the policies,\n"
           "`kvreplay metrics` the metrics. A replay that fails leaves no output.";
  }
  void declare(options::options_description& visible, options::options_description& hidden,
               options::positional_options_description& positional) const override {
    visible.add_options()("policy", options::value<Strings>()->value_name("P"),
                          "a policy string; may be given several times")(
        "budget", options::value<Strings>()->value_name("N"),
        "tokens (256), share of the prompt (10%), bytes (2MiB); a list, or several times")(
        "equal-bytes",
        "budgets mean the bytes of so many tokens in every KV head: each policy gets what really fits into them")(
        "out", options::value<std::string>()->value_name("R.h5"), "the results file")(
        "granularity", options::value<std::string>()->value_name("G"),
        "query_head, kv_head or layer, for every policy that has the choice")(
        "metrics", options::value<std::string>()->value_name("A,B"),
        "names of metrics, or none (default: all that the trace has data for)")("scores",
                                                                                "write the policies' final scores too")(
        "evidence", options::value<Strings>()->value_name("LABEL"),
        "label of the marked spans that evidence_recall counts (default: needle, evidence)")(
        "early-steps", options::value<std::int64_t>()->value_name("N")->default_value(16),
        "the summaries' NAME.early is over the first N steps after the prompt, NAME.late over the rest")(
        "trusted", "read traces in this process even when this machine did not write them");
    hidden.add_options()("trace", options::value<Strings>(), "");
    positional.add("trace", -1);
  }

  int run(const Invocation& call) const override {
    const auto& values = call.values;
    const auto require = [&](const char* option, const char* example) {
      if (values.count(option) == 0)
        throw UsageError("kvreplay replay", std::string("needs ") + example, "`kvreplay replay --help` has examples");
    };
    require("trace", "a trace file");
    require("policy", "--policy P");
    require("budget", "--budget N");
    require("out", "--out R.h5");

    ReplayRequest request;
    for (const auto& text : values["policy"].as<Strings>())
      request.policies.push_back(parse_policy(
          values.count("granularity") != 0 ? with_granularity(text, values["granularity"].as<std::string>()) : text));
    for (const auto& text : listed(values, "budget")) request.budgets.push_back(Budget::parse(text));
    if (values.count("metrics") != 0) {
      request.all_metrics = false;
      for (const auto& name : split(values["metrics"].as<std::string>(), ','))
        if (name != "none") request.metrics.push_back(&find_metric(name));
    }
    request.equal_bytes = values.count("equal-bytes") != 0;
    request.scores = values.count("scores") != 0;
    request.evidence_labels = listed(values, "evidence");
    request.early_steps = values["early-steps"].as<std::int64_t>();
    if (request.early_steps < 1) throw Error("--early-steps", "must be at least 1");

    const auto backend = make_cpu_backend();
    const Trust trust = values.count("trusted") != 0 ? Trust::trusted : Trust::automatic;
    const std::string out = values["out"].as<std::string>();
    ResultsWriter results(out);
    std::vector<RunInfo> runs;
    for (const auto& path : values["trace"].as<Strings>()) {
      const auto trace = open_trace(path, trust);
      if (!trace->complete())
        call.job.warn(path + " is a capture that was cut off: reading the " + std::to_string(trace->num_tokens()) +
                      " tokens that it committed");
      for (RunInfo& run : replay(*trace, request, *backend, results, call.job)) runs.push_back(std::move(run));
    }
    results.finish();
    print(call, runs, out);
    return 0;
  }

 private:
  static void print(const Invocation& call, const std::vector<RunInfo>& runs, const std::string& out) {
    if (call.json) {
      nlohmann::ordered_json list = nlohmann::ordered_json::array();
      for (const RunInfo& run : runs) list.push_back(json_of(run));
      std::printf("%s\n", nlohmann::ordered_json{{"out", out}, {"runs", list}}.dump(2).c_str());
      return;
    }
    std::size_t width = 6;
    std::vector<std::string> labels;
    for (const RunInfo& run : runs) width = std::max(width, labels.emplace_back(parse_policy(run.policy).label()).size());
    const auto cache_text = [](const RunInfo& run) {
      return run.equal_bytes > 0 ? std::to_string(run.cache_bytes) + " B"
                                 : format_bytes(static_cast<double>(run.cache_bytes));
    };
    std::printf("%-*s  %7s  %10s  %9s  %12s  %12s  %s\n", static_cast<int>(width), "policy", "budget", "cache", "of full",
                "output error", "evicted mass", "kept set");
    const auto number = [](const RunInfo& run, const char* metric) {
      const auto found = run.summary.find(metric);
      char text[32] = "-";
      if (found != run.summary.end()) std::snprintf(text, sizeof text, "%.4g", found->second);
      return std::string(text);
    };
    for (std::size_t i = 0; i < runs.size(); ++i) {
      const RunInfo& run = runs[i];
      const double share = run.full_cache_bytes > 0
                               ? 100.0 * static_cast<double>(run.cache_bytes) / static_cast<double>(run.full_cache_bytes)
                               : 0;
      std::printf("%-*s  %7lld  %10s  %7.1f %%  %12s  %12s  %s\n", static_cast<int>(width), labels[i].c_str(),
                  static_cast<long long>(run.budget), cache_text(run).c_str(), share,
                  number(run, run.summary.count("output_error") != 0 ? "output_error" : "output_error_unprojected").c_str(),
                  number(run, "evicted_mass").c_str(), run.kept_sha256.substr(0, 12).c_str());
    }
    std::printf("\n%zu runs in %s; `kvreplay report %s` tells more.\n", runs.size(), out.c_str(), out.c_str());
  }
};

}  // namespace

const Command& replay_command() {
  static const ReplayCommand command;
  return command;
}

}  // namespace kvreplay::cli
