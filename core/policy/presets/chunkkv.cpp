#include "core/policy/stages/scorers.h"

namespace kvreplay {

const PolicyDescription& chunkkv_policy() {
  static const PolicyDescription description = {
      .name = "chunkkv",
      .idea = "Keeps or drops whole chunks of neighbouring tokens, so that phrases stay together; one set per layer.",
      .paper =
          "Liu et al., ChunkKV: Semantic-Preserving KV Cache Compression for Efficient Long-Context LLM Inference, 2025",
      .stages = "base scorer → sum over heads → mean over chunks → top chunks; once when the prompt ends",
      .needs = "what the base needs",
      .variants = {{"kvpress", "NVIDIA/kvpress at 8bb29b9",
                    "As many chunks as the share of the budget, rounded down, at least one; the last chunk may be shorter "
                    "and competes by its own mean: the tokens kept differ from the budget. A prompt shorter than a chunk is "
                    "selected token by token (one set per layer also then, where the published code has one per KV head). "
                    "Scores in a results file are those of the chunks."}},
      .parameters = with_scorer_parameters(
          {integer_parameter("chunk", "tokens that stay or go together", 1, 65536, {{"kvpress", "20"}})}),
      .make =
          [](const PolicySpec& spec) {
            OneShotStages stages;
            stages.granularity = Granularity::layer;
            stages.indicator = scorer_of(spec);
            stages.selection = chunk_selection(spec.values.integer("chunk"), true);
            return make_one_shot_policy(std::move(stages));
          },
  };
  return description;
}

}  // namespace kvreplay
