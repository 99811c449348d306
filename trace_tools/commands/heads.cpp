#include "core/policy/head_table.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/base/text_file.h"
#include "trace_tools/backend_option.h"
#include "trace_tools/command.h"

namespace kvreplay::cli {
namespace {

using Strings = std::vector<std::string>;

// Importances of one trace's heads, layer by layer.
using Measured = std::vector<std::vector<double>>;

class HeadsCommand final : public Command {
 public:
  std::string_view name() const override { return "heads"; }
  std::string_view summary() const override { return "measure how important each head is: the table that headkv needs"; }
  std::string_view usage() const override { return "TRACE... --out TABLE.json [--measure NAME] [--evidence LABEL]"; }
  std::string_view description() const override {
    return "Measures each query head by its attention to marked spans (a needle, an answer's evidence) while the model\n"
           "generates, with the full cache. The table has a list for each head, one number a trace, as the tables have "
           "that\n"
           "HeadKV's authors publish; their mean is the head's importance.\n"
           "\n"
           "  kvreplay heads needle_*.h5 --out table.json\n"
           "  kvreplay replay t.h5 --policy headkv:table=table.json --budget 128 --out r.h5\n"
           "\n"
           "--measure r2    (default) of the N keys with the most attention at a step, those inside the spans (N tokens) "
           "count\n"
           "                with their attention; the sum over the S steps is divided by N · S. This is the\n"
           "                retrieval-reasoning score of HeadKV (Fu et al., ICLR 2025) as its authors' code has it, but "
           "for\n"
           "                the constant 10. They count only sequences that the model answers right, and the steps up to "
           "the\n"
           "                answer's length; here every trace given counts, and all of its steps: choose the traces.\n"
           "--measure mass  attention mass on the spans, mean over the steps.";
  }
  void declare(options::options_description& visible, options::options_description& hidden,
               options::positional_options_description& positional) const override {
    visible.add_options()("out", options::value<std::string>()->value_name("TABLE.json"), "the table")(
        "measure", options::value<std::string>()->value_name("NAME")->default_value("r2"), "r2 or mass")(
        "evidence", options::value<Strings>()->value_name("LABEL"),
        "label of the marked spans; may be given several times (default: needle, evidence)")(
        "trusted", "read traces in this process even when this machine did not write them");
    declare_backend(visible);
    hidden.add_options()("trace", options::value<Strings>(), "");
    positional.add("trace", -1);
  }

  int run(const Invocation& call) const override {
    const auto& values = call.values;
    require(call, *this, "trace", "a trace file");
    require(call, *this, "out", "--out TABLE.json");
    const HeadMeasure measure = measure_of(values["measure"].as<std::string>());
    const auto labels = values.count("evidence") != 0 ? values["evidence"].as<Strings>() : Strings{"needle", "evidence"};
    const Trust trust = values.count("trusted") != 0 ? Trust::trusted : Trust::automatic;

    const auto backend = chosen_backend(call);
    const auto paths = values["trace"].as<Strings>();
    std::vector<Measured> traces;
    for (const auto& path : paths) {
      traces.push_back(measured(*open_trace(path, trust), labels, measure, *backend, call.job));
      if (traces.back().size() != traces[0].size() || traces.back()[0].size() != traces[0][0].size())
        throw Error(path, "has other layers or heads than " + paths[0], "a table belongs to one model");
    }
    const std::string out = values["out"].as<std::string>();
    write(out, traces);
    print(call, traces, out, backend->name());
    return 0;
  }

 private:
  static HeadMeasure measure_of(const std::string& text) {
    if (text == "r2") return HeadMeasure::retrieval_reasoning;
    if (text == "mass") return HeadMeasure::mass;
    throw Error("--measure", "\"" + text + "\" is no measure", "it takes r2 or mass");
  }

  static Measured measured(const Trace& trace, const Strings& labels, HeadMeasure measure, Backend& backend, Job& job) {
    std::vector<TextSpan> evidence;
    for (const TextSpan& span : trace.spans())
      if (std::find(labels.begin(), labels.end(), span.label) != labels.end()) evidence.push_back(span);
    if (evidence.empty())
      throw Error(trace.path(), "has no marked span labelled " + join(labels, ", ", " or "),
                  "capture with --spans, or name a label with --evidence");
    if (static_cast<int>(trace.layers().size()) != trace.model().num_layers)
      throw Error(trace.path(),
                  "holds " + std::to_string(trace.layers().size()) + " of the model's " +
                      std::to_string(trace.model().num_layers) + " layers",
                  "a table needs all: capture without --layers");
    Measured out;
    job.begin("measuring heads", static_cast<double>(trace.layers().size()), "layers");
    for (const int l : trace.layers()) {
      job.check();
      LayerWorkspace layer(trace, l, backend);
      out.push_back(measure_heads(layer, evidence, measure));
      job.advance_to(static_cast<double>(out.size()));
    }
    job.end();
    return out;
  }

  static void write(const std::string& path, const std::vector<Measured>& traces) {
    nlohmann::ordered_json table = nlohmann::ordered_json::object();
    for (std::size_t l = 0; l < traces[0].size(); ++l)
      for (std::size_t h = 0; h < traces[0][l].size(); ++h)
        for (const Measured& trace : traces) table[std::to_string(l) + "-" + std::to_string(h)].push_back(trace[l][h]);
    write_text_file(path, table.dump() + "\n");
  }

  struct Head {
    double importance = 0;
    std::size_t layer = 0, head = 0;
  };

  static void print(const Invocation& call, const std::vector<Measured>& traces, const std::string& out,
                    const std::string& backend) {
    std::vector<Head> heads;
    double total = 0;
    for (std::size_t l = 0; l < traces[0].size(); ++l)
      for (std::size_t h = 0; h < traces[0][l].size(); ++h) {
        Head head{.layer = l, .head = h};
        for (const Measured& trace : traces) head.importance += trace[l][h] / static_cast<double>(traces.size());
        total += head.importance;
        heads.push_back(head);
      }
    std::stable_sort(heads.begin(), heads.end(), [](const Head& a, const Head& b) { return a.importance > b.importance; });
    if (total == 0) call.job.warn("no head attends to the spans: headkv will refuse this table");
    if (call.json) {
      nlohmann::ordered_json list = nlohmann::ordered_json::array();
      for (const Head& head : heads)
        list.push_back({{"layer", head.layer}, {"head", head.head}, {"importance", head.importance}});
      const nlohmann::ordered_json json = {{"out", out}, {"traces", traces.size()}, {"backend", backend}, {"heads", list}};
      std::printf("%s\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
      return;
    }
    std::printf("%s: %zu heads from %zu trace%s (backend %s); the most important:\n\n  layer  head  importance   share\n",
                printable(out).c_str(), heads.size(), traces.size(), traces.size() == 1 ? "" : "s", backend.c_str());
    for (std::size_t i = 0; i < std::min<std::size_t>(10, heads.size()); ++i)
      std::printf("  %5zu  %4zu  %10.3g  %5.1f %%\n", heads[i].layer, heads[i].head, heads[i].importance,
                  total > 0 ? 100 * heads[i].importance / total : 0.0);
  }
};

}  // namespace

const Command& heads_command() {
  static const HeadsCommand command;
  return command;
}

}  // namespace kvreplay::cli
