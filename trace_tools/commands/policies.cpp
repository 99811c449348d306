#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/policy/explain.h"
#include "trace_tools/command.h"

namespace kvreplay::cli {
namespace {

nlohmann::ordered_json json_of(const std::vector<Parameter>& parameters) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Parameter& parameter : parameters)
    list.push_back({{"key", parameter.key},
                    {"allowed", parameter.allowed()},
                    {"defaults", parameter.defaults},
                    {"only_with", parameter.only_with},
                    {"required", parameter.required},
                    {"meaning", parameter.doc}});
  return list;
}

nlohmann::ordered_json json_of(const PolicyDescription& policy) {
  nlohmann::ordered_json variants = nlohmann::ordered_json::array();
  for (const PolicyVariant& variant : policy.variants)
    variants.push_back({{"name", variant.name}, {"source", variant.source}, {"differences", variant.differences}});
  return {{"name", policy.name},
          {"idea", policy.idea},
          {"paper", policy.paper},
          {"stages", policy.stages},
          {"needs", policy.needs},
          {"variants", variants},
          {"parameters", json_of(policy.parameters)}};
}

nlohmann::ordered_json json_of(const PolicyWrapper& wrapper) {
  return {{"name", wrapper.name}, {"idea", wrapper.idea}, {"parameters", json_of(wrapper.parameters)}};
}

constexpr const char* page_head =
    "# Eviction policies\n\n"
    "Written by `kvreplay policies --markdown`. A policy is written\n\n"
    "    NAME[@VARIANT][:key=value,key=value,...]        restkv@released:window=32,alpha=0.3,scale=2000\n\n"
    "Without a variant it is the first that the table lists. `paper` is the form that can be compared: one kept set for "
    "each KV\n"
    "head, so that a real cache can hold it, and a budget kept to the token. The others repeat published code, quirks "
    "included;\n"
    "their kept sets match what that code chose, token by token. A budget counts window and sinks.\n\n";

class PoliciesCommand final : public Command {
 public:
  std::string_view name() const override { return "policies"; }
  std::string_view summary() const override { return "the eviction policies, their variants and parameters"; }
  std::string_view usage() const override { return "[--explain NAME] [--markdown] [--json]"; }
  std::string_view description() const override {
    return "Lists the policies. A policy is written NAME[@VARIANT][:key=value,...], for example\n"
           "\n"
           "  restkv                                   as its paper defines it, one kept set per KV head\n"
           "  snapkv@released:window=32,kernel=5       as the code released with ReST-KV computes it, per query head\n"
           "\n"
           "--explain NAME tells everything about one: idea, paper, stages, parameters with range and default by variant, "
           "and\n"
           "where the variants differ.";
  }
  void declare(options::options_description& visible, options::options_description&,
               options::positional_options_description&) const override {
    visible.add_options()("explain", options::value<std::string>()->value_name("NAME"), "everything about one policy")(
        "markdown", "the same for all policies (or for one, with --explain) as Markdown");
  }

  int run(const Invocation& call) const override {
    std::vector<const PolicyDescription*> chosen = policy_registry();
    const bool one = call.values.count("explain") != 0;
    if (one) {
      const std::string text = call.values["explain"].as<std::string>();
      for (const PolicyWrapper* wrapper : wrapper_registry())
        if (wrapper->name == text) {
          if (call.values.count("markdown") != 0)
            throw UsageError("kvreplay policies", "--markdown has what goes around policies in its last section",
                             "leave --explain out, or --markdown");
          std::printf("%s\n", call.json ? json_of(*wrapper).dump(2).c_str() : explain_wrapper(*wrapper).c_str());
          return 0;
        }
      chosen = {&find_policy(text.substr(0, text.find_first_of("@:")))};
    }
    if (call.json) {
      nlohmann::ordered_json out = nlohmann::ordered_json::array();
      for (const auto* policy : chosen) out.push_back(json_of(*policy));
      std::printf("%s\n", (one ? out[0] : out).dump(2).c_str());
    } else if (call.values.count("markdown") != 0) {
      if (!one) std::printf("%s", page_head);
      for (const auto* policy : chosen) std::printf("%s\n", explain_policy_as_markdown(*policy).c_str());
      if (!one) std::printf("%s", explain_wrappers_as_markdown().c_str());
    } else if (one) {
      std::printf("%s", explain_policy(*chosen.front()).c_str());
    } else {
      for (const auto* policy : chosen) {
        std::vector<std::string> variants;
        for (const auto& variant : policy->variants) variants.push_back(variant.name);
        std::printf("%-17s %s\n%-17s   variants: %s\n", policy->name.c_str(), policy->idea.c_str(), "",
                    join(variants, ", ").c_str());
      }
      std::printf("\nAround any policy:\n");
      for (const PolicyWrapper* wrapper : wrapper_registry())
        for (const Parameter& parameter : wrapper->parameters)
          std::printf("  %-15s %s\n", parameter.key.c_str(), parameter.doc.c_str());
      std::printf("\n`kvreplay policies --explain NAME` tells more about one.\n");
    }
    return 0;
  }
};

}  // namespace

const Command& policies_command() {
  static const PoliciesCommand command;
  return command;
}

}  // namespace kvreplay::cli
