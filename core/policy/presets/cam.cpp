#include "core/policy/stages/cam.h"

namespace kvreplay {
namespace {

constexpr const char* prompt_form =
    "Once, when the prompt ends. From ceil(P/10) on each token's value is merged into the W tokens after it, one after the "
    "other, with probability mean attention of the window / the largest of the first P/10 tokens and of those W; every "
    "token, evicted or not. The top B by summed window attention stay, without pooling, each query head with values of its "
    "own. ";

}  // namespace

const PolicyDescription& cam_policy() {
  static const PolicyDescription description = {
      .name = "cam",
      .idea =
          "Cache merging: the value of a token that leaves is spread over the tokens after it, more often the more "
          "attention "
          "it had.",
      .paper = "Zhang et al., CaM: Cache Merging for Memory-efficient LLMs Inference, ICML 2024",
      .stages =
          "position → sinks + recent, or attention (last W queries) → top-k + window (released, factory); values merged, "
          "keys as they are",
      .needs = "the decode queries; released, factory: the last W prompt queries",
      .variants =
          {{"paper", "Zhang et al. 2024, with the rule of the authors' code",
            "StreamingLLM's set after the prompt and each step, one set of values for each KV head. A token that leaves "
            "after a step is merged into the next 32 with probability a / mean a of the later recent tokens, a the group's "
            "mean "
            "attention at that step over what is held. What leaves when the prompt ends is not merged. In expectation "
            "unless "
            "mode=bernoulli."},
           {"released", "an-yongqi/rest-kv at a8bb112",
            std::string(prompt_form) +
                "The published code changes values in place, before the layer's own prompt output is computed: that further "
                "layers see merged values is not replayed."},
           {"factory", "Zefan-Cai/KVCache-Factory at c97f9d7", "As released, window 8."},
           {"kvpress", "NVIDIA/kvpress at 8bb29b9 (CAMPress)",
            "While decoding alone: every `interval` steps down to the budget, one set for the layer, by a scorer averaged "
            "over "
            "KV heads. As many of the evicted as steps went by, the best (ties: the later), are merged into the next 32 "
            "kept "
            "tokens with probability a / mean a of those, a the group's mean attention summed since the prompt ended. "
            "Nothing "
            "is evicted when the prompt ends."},
           {"original", "zyxxmu/cam at fc80e64 (cam_hf)",
            "As paper, per query head; the query to come counts as one of the recent tokens; a token is merged one step "
            "before "
            "it leaves, so that one query sees it twice. Sizes in the string win over the budget (the code takes them as "
            "shares "
            "of the prompt)."}},
      .parameters =
          {choice_parameter("mode", "merge with the probability (bernoulli), or that share of the value (expectation)",
                            {"bernoulli", "expectation"},
                            {{"paper", "expectation"},
                             {"released", "bernoulli"},
                             {"factory", "bernoulli"},
                             {"kvpress", "bernoulli"},
                             {"original", "bernoulli"}}),
           integer_parameter("seed", "of mode=bernoulli; each layer, head and token has a draw of its own", 0, 2147483647,
                             {{"paper", "0"}, {"released", "0"}, {"factory", "0"}, {"kvpress", "0"}, {"original", "0"}}),
           window_parameter({{"released", "32"}, {"factory", "8"}}),
           choice_parameter("base", "the scorer", {"streaming_llm", "knorm"}, {{"kvpress", "streaming_llm"}}),
           integer_parameter("sinks", "the first tokens, always kept and counted in the budget", 0, 65536,
                             {{"paper", "4"}, {"kvpress", "4"}, {"original", "4"}}),
           integer_parameter("recent", "recent tokens kept; 0: what the budget leaves beside the sinks", 0, 16777216,
                             {{"original", "0"}}),
           integer_parameter("interval", "decode steps between evictions", 1, 1000000, {{"kvpress", "512"}}),
           integer_parameter("neighbours", "later tokens that share a merged value", 1, 65536,
                             {{"paper", "32"}, {"kvpress", "32"}, {"original", "32"}}),
           granularity_parameter(
               {{"paper", "kv_head"}, {"released", "query_head"}, {"factory", "query_head"}, {"original", "query_head"}}),
           group_parameter({{"paper", "mean"}, {"released", "mean"}, {"factory", "mean"}, {"original", "mean"}})},
      .make = [](const PolicySpec& spec) -> std::unique_ptr<Policy> {
        const ParameterValues& values = spec.values;
        const MergeDraw draw{values.text("mode") == "expectation", static_cast<std::uint64_t>(values.integer("seed"))};
        if (spec.variant == "kvpress")
          return make_cam_interval_policy({.key_norms = values.text("base") == "knorm",
                                           .sinks = values.integer("sinks"),
                                           .interval = values.integer("interval"),
                                           .neighbours = values.integer("neighbours"),
                                           .draw = draw});
        const Grouping grouping = grouping_of(values);
        if (spec.variant == "released" || spec.variant == "factory")
          return make_cam_prompt_policy(values.integer("window"), grouping, draw);
        return make_cam_streaming_policy({.sinks = values.integer("sinks"),
                                          .recent = spec.variant == "original" ? values.integer("recent") : 0,
                                          .neighbours = values.integer("neighbours"),
                                          .published = spec.variant == "original",
                                          .grouping = grouping,
                                          .draw = draw});
      },
  };
  return description;
}

}  // namespace kvreplay
