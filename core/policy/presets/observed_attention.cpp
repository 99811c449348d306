#include "core/policy/stages/scorers.h"

namespace kvreplay {

std::unique_ptr<Indicator> observed_attention_scorer(const PolicySpec&) {
  return observed_attention_indicator({Granularity::kv_head, Reduction::mean});
}

const PolicyDescription& observed_attention_policy() {
  static const PolicyDescription description = {
      .name = "observed_attention",
      .idea =
          "Keeps what the prompt attended to on average. Related to H2O, but a token's sum is divided by how many queries "
          "could see it, and recent tokens are not protected.",
      .paper = "",
      .stages =
          "attention (all prompt queries, causal) → mean over those that see the token → top-k; once when the prompt ends",
      .needs = "attention_column_sum, or the queries of the whole prompt",
      .variants = {{"kvpress", "NVIDIA/kvpress at 8bb29b9", "Mean over the query heads of a KV head."}},
      .parameters = {},
      .make = [](const PolicySpec& spec) { return make_scorer_policy(observed_attention_scorer(spec)); },
  };
  return description;
}

}  // namespace kvreplay
