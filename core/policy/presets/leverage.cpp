// Keys that span what the others do not (Chari and Van Durme 2025).
#include "core/policy/stages/indicators_before_rope.h"
#include "core/policy/stages/scorers.h"

namespace kvreplay {

std::unique_ptr<Indicator> leverage_scorer(const PolicySpec& spec) {
  return leverage_indicator(sketch_settings_of(spec, "leverage"));
}

const PolicyDescription& leverage_policy() {
  static const PolicyDescription description = {
      .name = "leverage",
      .idea = "Keeps the keys with the largest statistical leverage: those that span directions which few others do.",
      .paper =
          "Chari and Van Durme, Compactor: Calibrated Query-Agnostic KV Cache Compression with Approximate Leverage "
          "Scores, 2025",
      .stages =
          "leverage (keys before RoPE, random sketch) → standardized over all heads → top-k; once when the prompt ends",
      .needs = "keys and how they were rotated (rope_theta, rope_scaling)",
      .variants = {{"kvpress", "NVIDIA/kvpress at 8bb29b9",
                    "The sketch is random in each layer. Where the trace records the one that published code drew for this "
                    "very policy (/expected/CASE/NNN/sketch), that one is used, and the run says so."}},
      .parameters = {integer_parameter("sketch", "columns of the random matrix that keys are projected with", 1, 4096,
                                       {{"kvpress", "48"}}),
                     integer_parameter("seed", "of the random matrix, together with layer and head", 0, 2147483647,
                                       {{"kvpress", "0"}})},
      .make = [](const PolicySpec& spec) { return make_scorer_policy(leverage_scorer(spec)); },
  };
  return description;
}

}  // namespace kvreplay
