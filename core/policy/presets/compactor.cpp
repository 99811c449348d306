// Leverage of the keys, and attention that no causal mask restricts (Chari and Van Durme 2025).
#include "core/base/error.h"
#include "core/base/text.h"
#include "core/policy/stages/indicators_before_rope.h"
#include "core/policy/stages/scorers.h"

namespace kvreplay {
namespace {

std::optional<double> blending_of(const PolicySpec& spec) {
  const std::string& text = spec.values.text("blending");
  if (text == "ratio") return {};
  Parameter number = real_parameter("blending", "", 0, 1000000, {});
  try {
    return std::stod(number.check("policy", text));
  } catch (const Error&) {
    throw Error("policy " + spec.description->name + "@" + spec.variant, "\"" + text + "\" is not allowed for \"blending\"",
                "it takes ratio or " + number.allowed());
  }
}

Parameter blending_parameter() {
  return text_parameter(
      "blending",
      "weight of the leverage beside the attention: a number of at least 0, or ratio for the share that is evicted",
      {{"kvpress", "ratio"}});
}

}  // namespace

std::unique_ptr<Indicator> compactor_scorer(const PolicySpec& spec) {
  CompactorSettings settings;
  settings.sinks_start = spec.values.integer("sinks_start");
  settings.sinks_end = spec.values.integer("sinks_end");
  settings.chunk = spec.values.integer("chunk");
  settings.blending = blending_of(spec);
  settings.sketch = sketch_settings_of(spec, "compactor");
  return compactor_indicator(settings);
}

const PolicyDescription& compactor_policy() {
  static const PolicyDescription description = {
      .name = "compactor",
      .idea = "Leverage of the keys plus what they receive within chunks when every query sees every key, times ‖value‖.",
      .paper =
          "Chari and Van Durme, Compactor: Calibrated Query-Agnostic KV Cache Compression with Approximate Leverage "
          "Scores, 2025",
      .stages =
          "blending · leverage + attention within chunks (no mask, no scale), group mean → times ‖value‖ → average of "
          "3, each standardized over all heads → ends first → top-k; once when the prompt ends",
      .needs = "every prompt query, keys, values and how they were rotated (rope_theta, rope_scaling)",
      .variants = {{"kvpress", "NVIDIA/kvpress at 8bb29b9",
                    "The last chunk is filled up with zeros that take part in its softmax. Protected ends get the largest "
                    "score, not more, so the best token ties with them. Without blending it is the compression ratio. The "
                    "sketch is random: see leverage."}},
      .parameters = {integer_parameter("sinks_start", "first tokens, which are not scored and get the largest score", 0,
                                       65536, {{"kvpress", "8"}}),
                     integer_parameter("sinks_end", "last tokens, likewise", 0, 65536, {{"kvpress", "4"}}),
                     integer_parameter("chunk", "tokens that attend to each other", 1, 65536, {{"kvpress", "256"}}),
                     blending_parameter(),
                     integer_parameter("sketch", "columns of the random matrix that keys are projected with", 1, 4096,
                                       {{"kvpress", "48"}}),
                     integer_parameter("seed", "of the random matrix, together with layer and head", 0, 2147483647,
                                       {{"kvpress", "0"}})},
      .make = [](const PolicySpec& spec) { return make_scorer_policy(compactor_scorer(spec)); },
  };
  return description;
}

}  // namespace kvreplay
