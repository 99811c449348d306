#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/trace/validate.h"
#include "trace_tools/command.h"

namespace kvreplay::cli {
namespace {

class ValidateCommand final : public Command {
 public:
  std::string_view name() const override { return "validate"; }
  std::string_view summary() const override { return "check a trace or results file against every rule of its format"; }
  std::string_view usage() const override { return "FILE... [--trusted] [--json]"; }
  std::string_view description() const override {
    return "Checks structure, types and shapes, that attention is causal and sums to 1, that nothing is NaN or infinite, "
           "the\n"
           "checksums, and on sample queries that log-sum-exps, attention and head outputs follow from Q, K and V. Lists "
           "all\n"
           "problems on standard output, one a line, and exits with 1 when there are any.\n"
           "\n"
           "  kvreplay validate trace.h5\n"
           "  kvreplay validate results.h5 --json";
  }
  void declare(options::options_description& visible, options::options_description& hidden,
               options::positional_options_description& positional) const override {
    visible.add_options()("trusted", "read the file in this process, without the sandbox");
    hidden.add_options()("file", options::value<std::vector<std::string>>()->required());
    positional.add("file", -1);
  }

  int run(const Invocation& call) const override {
    const Trust trust = call.values.count("trusted") != 0 ? Trust::trusted : Trust::automatic;
    const auto files = call.values["file"].as<std::vector<std::string>>();
    nlohmann::json all = nlohmann::json::array();
    bool good = true;
    for (const auto& file : files) {
      const ValidationReport report = validate_file(file, trust, call.job);
      good = good && report.problems.empty();
      if (call.json)
        all.push_back(as_json(file, report));
      else
        print(file, report);
    }
    if (call.json)
      std::printf("%s\n",
                  (files.size() == 1 ? all[0] : all).dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return good ? 0 : 1;
  }

 private:
  static void print(const std::string& file, const ValidationReport& report) {
    for (const Problem& problem : report.problems) {
      // As an Error would say it: FILE:/node: what; remedy.
      const Error line(problem.node == "/" ? file : file + ":" + problem.node, problem.what, problem.remedy);
      std::printf("%s\n", printable(line.what()).c_str());
    }
    if (report.problems.empty())
      std::printf("%s: %s, every rule holds\n", printable(file).c_str(),
                  report.format == "kvreplay-trace" ? "a complete trace" : "a results file");
    else
      std::printf("%s: %zu problem%s\n", printable(file).c_str(), report.problems.size(),
                  report.problems.size() == 1 ? "" : "s");
    for (const auto& what : report.checked) std::printf("  checked %s\n", what.c_str());
  }

  static nlohmann::json as_json(const std::string& file, const ValidationReport& report) {
    nlohmann::json problems = nlohmann::json::array();
    for (const Problem& p : report.problems) problems.push_back({{"where", p.node}, {"what", p.what}, {"remedy", p.remedy}});
    return {{"file", file},
            {"format", report.format},
            {"complete", report.complete},
            {"valid", report.problems.empty()},
            {"problems", problems},
            {"checked", report.checked}};
  }
};

}  // namespace

const Command& validate_command() {
  static const ValidateCommand command;
  return command;
}

}  // namespace kvreplay::cli
