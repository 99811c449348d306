#include "core/policy/explain.h"

#include <algorithm>

#include "core/base/text.h"

namespace kvreplay {
namespace {

constexpr std::size_t text_width = 96;

// Breaks at spaces; continuation lines get the indent.
std::string wrapped(const std::string& text, std::size_t indent) {
  std::string out, line;
  for (const std::string& word : split(text, ' ')) {
    if (!line.empty() && line.size() + 1 + word.size() > text_width - indent) {
      out += line + "\n" + std::string(indent, ' ');
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
  }
  return out + line;
}

std::string defaults_of(const PolicyDescription& policy, const Parameter& parameter) {
  if (parameter.required) return "(required)";
  std::vector<std::string> parts;
  for (const PolicyVariant& variant : policy.variants) {
    const auto value = parameter.defaults.find(variant.name);
    if (value != parameter.defaults.end()) parts.push_back(value->second + " (" + variant.name + ")");
  }
  const bool same = parts.size() == policy.variants.size() &&
                    std::all_of(policy.variants.begin(), policy.variants.end(), [&](const PolicyVariant& variant) {
                      return parameter.defaults.at(variant.name) == parameter.defaults.begin()->second;
                    });
  return same ? parameter.defaults.begin()->second : join(parts, ", ");
}

// Its meaning, and when it exists.
std::string meaning_of(const Parameter& parameter) {
  return parameter.doc + (parameter.only_with.empty() ? "" : "; only with " + parameter.condition());
}

std::string field(const char* name, const std::string& text) {
  std::string label = name;
  label.resize(10, ' ');
  return text.empty() ? "" : label + wrapped(text, 10) + "\n";
}

std::string escaped(std::string text) {
  for (std::size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2) text.insert(at, 1, '\\');
  return text;
}

}  // namespace

std::string explain_policy(const PolicyDescription& policy) {
  std::string out = policy.name + "\n\n" + field("idea", policy.idea) + field("paper", policy.paper) +
                    field("stages", policy.stages) + field("needs", policy.needs);
  out += "\nvariants (the first is the default)\n";
  for (const PolicyVariant& variant : policy.variants) {
    out += "  @" + variant.name + ": " + variant.source + "\n";
    if (!variant.differences.empty()) out += "      " + wrapped(variant.differences, 6) + "\n";
  }
  out += policy.parameters.empty() ? "\nno parameters\n" : "\nparameters\n";
  for (const Parameter& parameter : policy.parameters) {
    out += "  " + parameter.key + " = " + defaults_of(policy, parameter) + "\n      " +
           wrapped(meaning_of(parameter) + "; " + parameter.allowed(), 6) + "\n";
  }
  return out;
}

std::string explain_policy_as_markdown(const PolicyDescription& policy) {
  std::string out = "## " + policy.name + "\n\n" + policy.idea + "\n\n";
  if (!policy.paper.empty()) out += "- Paper: " + policy.paper + "\n";
  out += "- Stages: " + policy.stages + "\n- Needs from a trace: " + policy.needs + "\n\n";
  out += "| variant | reproduces | what it does differently |\n| --- | --- | --- |\n";
  for (const PolicyVariant& variant : policy.variants)
    out += "| `" + variant.name + "` | " + escaped(variant.source) + " | " + escaped(variant.differences) + " |\n";
  if (policy.parameters.empty()) return out;
  out += "\n| parameter | default | allowed | meaning |\n| --- | --- | --- | --- |\n";
  for (const Parameter& parameter : policy.parameters)
    out += "| `" + parameter.key + "` | " + escaped(defaults_of(policy, parameter)) + " | " + escaped(parameter.allowed()) +
           " | " + escaped(meaning_of(parameter)) + " |\n";
  return out;
}

std::string explain_wrapper(const PolicyWrapper& wrapper) {
  std::string out = wrapper.name + " (around any policy)\n\n" + field("idea", wrapper.idea) + "\nparameters\n";
  for (const Parameter& parameter : wrapper.parameters)
    out += "  " + parameter.key + " = " + parameter.defaults.at(wrapper_default) + "\n      " +
           wrapped(parameter.doc + "; " + parameter.allowed(), 6) + "\n";
  return out;
}

std::string explain_wrappers_as_markdown() {
  std::string out =
      "## Around any policy\n\nThese keys go with every policy, for example `snapkv:schedule=every:64,merge=pivot`. Those "
      "that are "
      "switched on are applied in the order of the table, the first innermost.\n\n"
      "| parameter | default | allowed | meaning | what it does |\n| --- | --- | --- | --- | --- |\n";
  for (const PolicyWrapper* wrapper : wrapper_registry())
    for (const Parameter& parameter : wrapper->parameters)
      out += "| `" + parameter.key + "` | " + parameter.defaults.at(wrapper_default) + " | " + escaped(parameter.allowed()) +
             " | " + escaped(parameter.doc) + " | " +
             (&parameter == &wrapper->parameters.front() ? escaped(wrapper->idea) : "") + " |\n";
  return out;
}

}  // namespace kvreplay
