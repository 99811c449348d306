// What queries to come are expected to attend to (Devoto et al. 2025).
#include "core/policy/stages/indicators_before_rope.h"
#include "core/policy/stages/scorers.h"

namespace kvreplay {

std::unique_ptr<Indicator> expected_attention_scorer(const PolicySpec& spec) {
  ExpectedAttentionSettings settings;
  settings.future = spec.values.integer("future");
  settings.sinks = spec.values.integer("sinks");
  settings.covariance = spec.values.boolean("covariance");
  settings.value_norm = spec.values.boolean("vnorm");
  settings.epsilon = spec.values.real("epsilon");
  return expected_attention_indicator(settings);
}

const PolicyDescription& expected_attention_policy() {
  static const PolicyDescription description = {
      .name = "expected_attention",
      .idea =
          "Takes future queries as normal, with the moments that the prompt's queries have before RoPE, turned to the "
          "positions to come; keeps what they are expected to attend to.",
      .paper =
          "Devoto, Jeblick and Jégou, Expected Attention: KV Cache Compression by Estimating Attention from Future "
          "Queries Distribution, 2025",
      .stages =
          "expected_attention (mean and covariance of all prompt queries) → group mean → times ‖value‖ → sinks first → "
          "top-k; once when the prompt ends",
      .needs = "every prompt query, keys, values and how they were rotated (rope_theta, rope_scaling)",
      .variants = {{"kvpress", "NVIDIA/kvpress at 8bb29b9",
                    "Sinks are neither scored nor counted in the moments; no recent token is protected. The rotation is the "
                    "mean of those of the positions to come, also in the covariance."}},
      .parameters = {integer_parameter("future", "positions after the prompt that the queries may stand at", 1, 16777216,
                                       {{"kvpress", "512"}}),
                     integer_parameter("sinks", "first tokens, which get the largest score + 1", 0, 65536,
                                       {{"kvpress", "4"}}),
                     boolean_parameter("covariance", "add the half variance of the logits to their mean",
                                       {{"kvpress", "true"}}),
                     boolean_parameter("vnorm", "multiply by the length of the value", {{"kvpress", "true"}}),
                     real_parameter("epsilon", "added to the attention before it is multiplied by the length of the value",
                                    0, 1, {{"kvpress", "0"}})},
      .make = [](const PolicySpec& spec) { return make_scorer_policy(expected_attention_scorer(spec)); },
  };
  return description;
}

}  // namespace kvreplay
