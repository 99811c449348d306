#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/trace/compare.h"
#include "trace_tools/command.h"

namespace kvreplay::cli {
namespace {

class DiffCommand final : public Command {
 public:
  std::string_view name() const override { return "diff"; }
  std::string_view summary() const override { return "what differs between two traces or two results files"; }
  std::string_view usage() const override { return "A B [--tolerance X] [--trusted] [--json]"; }
  std::string_view description() const override {
    return "Compares manifests, models, tokens, layers and every tensor of two traces, or the runs, evicted sets and "
           "metrics of\n"
           "two results files. What matters most comes first: another model explains everything below it. When and by "
           "which\n"
           "command line a file was made is told, but is no difference. Exits with 0 when nothing differs and with 3 when\n"
           "something does.\n"
           "\n"
           "  kvreplay diff a.h5 b.h5\n"
           "  kvreplay diff a.h5 b.h5 --tolerance 1e-4";
  }
  void declare(options::options_description& visible, options::options_description& hidden,
               options::positional_options_description& positional) const override {
    visible.add_options()("tolerance", options::value<double>()->value_name("X")->default_value(0, "0"),
                          "values within this share of a tensor's largest magnitude are equal")(
        "trusted", "read the files in this process, without the sandbox");
    hidden.add_options()("a", options::value<std::string>()->required())("b", options::value<std::string>()->required());
    positional.add("a", 1).add("b", 1);
  }

  int run(const Invocation& call) const override {
    CompareOptions compare;
    compare.tolerance = call.values["tolerance"].as<double>();
    if (!(compare.tolerance >= 0) || !std::isfinite(compare.tolerance))
      throw UsageError("--tolerance", "must be a number of at least 0");
    if (call.values.count("trusted") != 0) compare.trust = Trust::trusted;
    const std::string a = call.values["a"].as<std::string>(), b = call.values["b"].as<std::string>();
    const auto differences = compare_files(a, b, compare, call.job);
    std::size_t counted = 0;
    for (const auto& d : differences) counted += d.counts ? 1 : 0;
    call.json ? print_json(a, b, differences, counted == 0) : print(differences, counted);
    return counted == 0 ? 0 : 3;
  }

 private:
  static void print(const std::vector<Difference>& differences, std::size_t counted) {
    for (const auto& d : differences)
      std::printf("%s%s: %s\n", d.counts ? "" : "(no difference) ", printable(d.where).c_str(), printable(d.what).c_str());
    if (counted == 0)
      std::printf("the same\n");
    else
      std::printf("%zu difference%s\n", counted, counted == 1 ? "" : "s");
  }

  static void print_json(const std::string& a, const std::string& b, const std::vector<Difference>& differences, bool same) {
    nlohmann::json list = nlohmann::json::array();
    for (const auto& d : differences) {
      nlohmann::json entry = {{"where", d.where}, {"what", d.what}, {"rank", d.rank}, {"counts", d.counts}};
      if (d.max_absolute) entry["max_absolute"] = *d.max_absolute;
      if (d.max_relative) entry["max_relative"] = *d.max_relative;
      if (!d.first_position.empty()) entry["first_position"] = d.first_position;
      list.push_back(std::move(entry));
    }
    const nlohmann::json out = {{"a", a}, {"b", b}, {"same", same}, {"differences", std::move(list)}};
    std::printf("%s\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  }
};

}  // namespace

const Command& diff_command() {
  static const DiffCommand command;
  return command;
}

}  // namespace kvreplay::cli
