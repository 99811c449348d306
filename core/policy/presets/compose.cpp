// A free choice of stages, from the same parts as every preset.
#include <algorithm>

#include "core/base/error.h"
#include "core/policy/stages/kvpress.h"
#include "core/policy/stages/scorers.h"

namespace kvreplay {
namespace {

// Indicators that score query heads, so that granularity and group apply; the scorers of kvpress have one row a KV head.
const std::vector<std::string> indicators = {"attention",      "attention_value", "accumulated",
                                             "reconstruction", "key_norm",        "random"};
const std::vector<std::string> with_queries = {"attention", "attention_value", "reconstruction"};
// Scorers that the indicators above and the other stages make already.
const std::set<std::string> made_of_parts = {"snapkv", "tova", "knorm"};

std::vector<std::string> indicator_names() {
  std::vector<std::string> names = indicators;
  for (const std::string& name : scorer_names())
    if (made_of_parts.count(name) == 0) names.push_back(name);
  return names;
}

bool is_scorer(const std::string& indicator) {
  return std::find(indicators.begin(), indicators.end(), indicator) == indicators.end();
}

using Condition = std::map<std::string, std::vector<std::string>>;

Parameter only_with(Parameter parameter, Condition condition) {
  parameter.only_with = std::move(condition);
  return parameter;
}

Defaults value(const std::string& text) { return {{"paper", text}}; }

Parameter as_own(Parameter parameter) {
  parameter.defaults = value(parameter.defaults.begin()->second);
  return parameter;
}

std::vector<Parameter> indicator_parameters() {
  return {
      only_with(choice_parameter("temporal", "how the window queries are weighted; ema favours the newest",
                                 {"mean", "sum", "ema", "inv-ema", "last"}, value("mean")),
                {{"indicator", with_queries}}),
      only_with(real_parameter("alpha", "weight of the newest query in ema, of the oldest in inv-ema", 0, 1, value("0.3")),
                {{"temporal", {"ema", "inv-ema"}}}),
      only_with(choice_parameter("mask", "which queries see which keys; full_before_window: those before the window see all",
                                 {"causal", "full_before_window"}, value("causal")),
                {{"indicator", {"accumulated"}}}),
      only_with(choice_parameter("metric",
                                 "before: the error of every query, then the weights; after: weighted attention, then one "
                                 "error",
                                 {"before", "after"}, value("before")),
                {{"indicator", {"reconstruction"}}}),
      only_with(boolean_parameter("project", "measure the error behind W_o (true) or in value space", value("true")),
                {{"indicator", {"reconstruction"}}}),
      only_with(boolean_parameter("normalize", "divide by the norm of the output", value("false")),
                {{"metric", {"before"}}}),
      only_with(real_parameter("tau", "exponent of the norm", 0, 16, value("1")),
                {{"metric", {"after"}}, {"project", {"true"}}}),
      only_with(choice_parameter("scope",
                                 "the output to compare with: over every key, or over those before the window alone, "
                                 "not renormalised",
                                 {"all", "prefix"}, value("all")),
                {{"metric", {"after"}}}),
      only_with(integer_parameter("seed", "of the counter-based generator, together with layer and head", 0, 2147483647,
                                  value("0")),
                {{"indicator", {"random"}}}),
      only_with(granularity_parameter(value("kv_head")), {{"indicator", indicators}}),
      only_with(group_parameter(value("mean")), {{"indicator", indicators}}),
  };
}

std::vector<Parameter> later_parameters() {
  Parameter window = window_parameter(value("32"));
  window.minimum = 0;
  return {
      pooling_parameter({"none", "avg", "max", "adaptive"}, value("none")),
      only_with(kernel_parameter(value("5")), {{"pooling", {"avg", "max", "adaptive"}}}),
      only_with(
          choice_parameter("padding", "beyond the edges: zeros, or the edge repeated", {"zero", "replicate"}, value("zero")),
          {{"pooling", {"avg"}}}),
      only_with(real_parameter("scale", "tokens of drift for each step of the adaptive window", 1e-6, 1e12, value("2000")),
                {{"pooling", {"adaptive"}}}),
      only_with(
          choice_parameter("shift",
                           "trunc: trunc(t / scale), ties to the lowest position; released: floor(t / scale), + 1 for t "
                           "<= 0, ties to the highest",
                           {"trunc", "released"}, value("trunc")),
          {{"pooling", {"adaptive"}}}),
      choice_parameter("allocation", "budgets: the same, by layer (pyramid), or by head",
                       {"uniform", "pyramid", "adaptive", "safeguard", "table"}, value("uniform")),
      only_with(beta_parameter(value("20")), {{"allocation", {"pyramid"}}}),
      only_with(choice_parameter(
                    "step", "exact: real arithmetic, all layers together keep the budget; floor: integers, they exceed it",
                    {"exact", "floor"}, value("exact")),
                {{"allocation", {"pyramid"}}}),
      only_with(boolean_parameter("short_uniform", "the same budget for every layer when the prompt is shorter than 2 B",
                                  value("true")),
                {{"step", {"floor"}}}),
      only_with(
          boolean_parameter("exact", "the heads together keep the budget; false: each is rounded by itself", value("true")),
          {{"allocation", {"adaptive", "table"}}}),
      only_with(real_parameter("floor", "share of the budget that is divided equally among the heads", 0, 1, value("0.2")),
                {{"allocation", {"adaptive"}}}),
      only_with(boolean_parameter("normalize_heads", "weight each head's scores by the share that its B best hold",
                                  value("false")),
                {{"allocation", {"adaptive"}}}),
      only_with(as_own(safeguard_parameter()), {{"allocation", {"safeguard"}}}),
      only_with(head_table_parameter(value("")), {{"allocation", {"table"}}}),
      only_with(real_parameter("beta", "1/beta of the budget is shared out by importance, the rest equally; more than 1",
                               1.0001, 10000, value("1.01")),
                {{"allocation", {"table"}}}),
      only_with(real_parameter("temperature", "exponent of the importances: above 1 gives to few heads, below 1 to many", 0,
                               100, value("1")),
                {{"allocation", {"table"}}}),
      choice_parameter("selection",
                       "the best tokens; whole chunks; the best of each chunk; by score, then by score and projected value",
                       {"top", "chunks", "per_chunk", "two_stage"}, value("top")),
      only_with(integer_parameter("chunk", "tokens in a chunk", 1, 65536, value("20")),
                {{"selection", {"chunks", "per_chunk"}}}),
      only_with(as_own(first_stage_parameter()), {{"selection", {"two_stage"}}}),
      only_with(as_own(epsilon_parameter()), {{"selection", {"two_stage"}}}),
      std::move(window),
      integer_parameter("sinks", "the first prompt tokens, always kept and counted in the budget", 0, 65536, value("0")),
  };
}

std::vector<Parameter> parameters() {
  std::vector<Parameter> all = {
      choice_parameter("indicator",
                       "what scores the tokens: a part of this project, or a scorer by the name of "
                       "its policy (as its kvpress variant)",
                       indicator_names(), value("attention"))};
  std::vector<Parameter> own = indicator_parameters();
  for (Parameter& parameter : later_parameters()) own.push_back(std::move(parameter));
  for (Parameter& parameter : own) all.push_back(parameter);
  for (Parameter& parameter : scorer_parameters(own, "indicator", "paper")) all.push_back(std::move(parameter));
  return all;
}

[[noreturn]] void refuse(const PolicySpec& spec, const std::string& key, const std::string& why, const std::string& remedy) {
  throw Error("policy " + spec.description->name + "@" + spec.variant,
              "\"" + spec.values.text(key) + "\" is not allowed for \"" + key + "\" " + why, remedy);
}

std::unique_ptr<Indicator> reconstruction_of(const PolicySpec& spec, std::vector<double> weights, Grouping grouping) {
  const ParameterValues& values = spec.values;
  ReconstructionSettings settings;
  settings.window = values.integer("window");
  settings.before = values.text("metric") == "before";
  settings.weights = std::move(weights);
  settings.description = values.text("temporal") + "," + (values.has("alpha") ? values.text("alpha") : "");
  settings.form.project = values.boolean("project");
  settings.form.normalize = values.has("normalize") && values.boolean("normalize");
  settings.form.prefix_output = values.has("scope") && values.text("scope") == "prefix";
  settings.form.tau = values.has("tau") ? values.real("tau") : 1;
  return reconstruction_indicator(std::move(settings), grouping);
}

std::unique_ptr<Indicator> indicator_of(const PolicySpec& spec, Grouping grouping) {
  const ParameterValues& values = spec.values;
  const std::string& indicator = values.text("indicator");
  const int window = values.integer("window");
  if (is_scorer(indicator)) return scorer_of(spec, "indicator", {"sinks"});
  if (indicator == "key_norm") return key_norm_indicator(grouping);
  if (indicator == "random")
    return random_indicator(static_cast<std::uint64_t>(values.integer("seed")), grouping.granularity);
  if (window == 0 && (indicator != "accumulated" || values.text("mask") != "causal"))
    refuse(spec, "window", "with indicator=" + indicator, "it scores with the queries of the window: at least 1");
  if (indicator == "accumulated")
    return accumulated_attention_indicator(
        values.text("mask") == "causal" ? ColumnMask::causal : ColumnMask::full_before_window, window, grouping);
  auto weights = temporal_weights(values.text("temporal"), values.has("alpha") ? values.real("alpha") : 0, window);
  if (indicator == "attention") return attention_indicator(window, std::move(weights), grouping);
  if (indicator == "attention_value") return attention_value_indicator(window, std::move(weights), grouping);
  return reconstruction_of(spec, std::move(weights), grouping);
}

std::unique_ptr<Pooling> pooling_of(const PolicySpec& spec, Grouping grouping) {
  const std::string& pooling = spec.values.text("pooling");
  if (pooling == "none") return no_pooling();
  const int kernel = odd_kernel_of(spec);
  if (pooling == "avg")
    return average_pooling(kernel, spec.values.text("padding") == "zero" ? Padding::zero : Padding::replicate);
  if (pooling == "max") return max_pooling(kernel);
  AdaptivePoolingSettings settings;
  settings.window = spec.values.integer("window");
  settings.kernel = kernel;
  settings.scale = spec.values.real("scale");
  settings.released = spec.values.text("shift") == "released";
  if (settings.window == 0 || settings.window % 2 != 0)
    refuse(spec, "window", "with pooling=adaptive", "it cuts the window into an older and a newer half: an even number");
  return adaptive_pooling(settings, grouping);
}

std::unique_ptr<Allocation> allocation_of(const PolicySpec& spec) {
  const std::string& allocation = spec.values.text("allocation");
  if (allocation == "pyramid") {
    const PyramidForm form = spec.values.text("step") == "exact"    ? PyramidForm::exact
                             : spec.values.boolean("short_uniform") ? PyramidForm::published
                                                                    : PyramidForm::published_without_branch;
    return pyramid_allocation(spec.values.integer("beta"), form);
  }
  if (allocation == "adaptive")
    return adaptive_allocation(spec.values.real("floor"), spec.values.boolean("normalize_heads"),
                               spec.values.boolean("exact"));
  if (allocation == "table")
    return table_allocation({.table = HeadTable::read(spec.values.text("table")),
                             .beta = spec.values.real("beta"),
                             .temperature = spec.values.real("temperature"),
                             .window_in_base = false,
                             .exact = spec.values.boolean("exact")});
  if (allocation == "safeguard") return safeguard_allocation(spec.values.real("safeguard"));
  return uniform_allocation();
}

std::unique_ptr<Selection> selection_of(const PolicySpec& spec, Grouping grouping) {
  const std::string& selection = spec.values.text("selection");
  if (selection == "chunks") return chunk_selection(spec.values.integer("chunk"), false);
  if (selection == "per_chunk") return per_chunk_selection(spec.values.integer("chunk"));
  if (selection == "top") return top_selection();
  if (grouping.granularity != Granularity::kv_head)
    refuse(spec, "selection", "with granularity=" + std::string(granularity_name(grouping.granularity)),
           "the size of a projected value belongs to a KV head: granularity=kv_head");
  const double safeguard = spec.values.has("safeguard") ? spec.values.real("safeguard") : 0;
  return two_stage_selection(spec.values.real("first_stage"), spec.values.real("epsilon"), safeguard);
}

std::unique_ptr<Policy> make(const PolicySpec& spec) {
  const Grouping grouping = is_scorer(spec.values.text("indicator")) ? Grouping{} : grouping_of(spec.values);
  OneShotStages stages;
  stages.granularity = grouping.granularity;
  stages.window = spec.values.integer("window");
  stages.sinks = spec.values.integer("sinks");
  stages.indicator = indicator_of(spec, grouping);
  stages.pooling = pooling_of(spec, grouping);
  stages.allocation = allocation_of(spec);
  stages.selection = selection_of(spec, grouping);
  return make_one_shot_policy(std::move(stages));
}

}  // namespace

const PolicyDescription& compose_policy() {
  static const PolicyDescription description = {
      .name = "compose",
      .idea = "A free choice of stages: indicator, pooling, allocation and selection from any of the others.",
      .paper = "",
      .stages =
          "indicator (temporal, granularity, group) → pooling → allocation → selection + window + sinks; once when the "
          "prompt ends",
      .needs = "what the indicator needs; output_projection for selection=two_stage",
      .variants = {{"paper", "the parts of this project",
                    "Every part as the paper variants have it, real arithmetic included, so that one stage can be changed "
                    "and nothing else."}},
      .parameters = parameters(),
      .make = make,
  };
  return description;
}

}  // namespace kvreplay
