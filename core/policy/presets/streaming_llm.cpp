// Attention sinks and the most recent tokens (Xiao et al., ICLR 2024). Needs positions only.
#include <algorithm>

#include "core/base/error.h"
#include "core/policy/stages/kvpress.h"
#include "core/policy/stages/scorers.h"

namespace kvreplay {
namespace {

// After the prompt and after every step: the first `sinks` tokens and the last `recent`.
class StreamingPolicy final : public Policy {
 public:
  // window 0: the rest of the budget.
  StreamingPolicy(int sinks, int window) : sinks_(sinks), window_(window) {}
  bool evicts_while_decoding() const override { return true; }
  Granularity granularity() const override { return Granularity::layer; }
  std::int64_t minimum_budget() const override { return std::max<std::int64_t>(1, sinks_); }
  std::int64_t fixed_budget() const override { return window_ > 0 ? sinks_ + window_ : 0; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = layer.nothing_evicted(Granularity::layer);
    // In a layer with a sliding window the sinks may be out of sight: then they take no room.
    const std::int64_t first = std::max(layer.first_candidate(), sinks_);
    const std::int64_t recent = budget - std::max<std::int64_t>(0, sinks_ - layer.first_candidate());
    for (std::int64_t position = first; position < layer.tokens(); ++position) {
      // Out of the recent part once `recent` tokens follow it: after the prompt, or after the step that fed the last of
      // them.
      const std::int64_t step = std::max<std::int64_t>(0, position + recent + 1 - layer.prompt());
      if (step <= layer.loaded().steps()) result.evicted_at(0, position) = static_cast<std::int32_t>(step);
    }
    return result;
  }

 private:
  std::int64_t sinks_, window_;
};

// When the prompt ends: the last `window` tokens and the first of the prompt with what is left of the budget.
class FirstAndLastPolicy final : public Policy {
 public:
  explicit FirstAndLastPolicy(int window) : window_(window) {}
  Granularity granularity() const override { return Granularity::query_head; }
  std::int64_t minimum_budget() const override { return std::max(1, window_); }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = layer.nothing_evicted(Granularity::query_head);
    if (budget >= layer.candidates()) return result;
    const std::int64_t window = window_ > 0 ? window_ : std::max<std::int64_t>(0, budget - 4);
    for (std::int64_t h = 0; h < result.evicted_at.dim(0); ++h)
      std::fill(&result.evicted_at(h, layer.first_candidate() + budget - window),
                &result.evicted_at(h, layer.prompt() - window), 0);
    return result;
  }

 private:
  int window_;
};

Parameter sinks_parameter() {
  return integer_parameter("sinks", "the first tokens, always kept and counted in the budget", 0, 65536,
                           {{"paper", "4"}, {"original", "4"}, {"kvpress", "4"}});
}

Parameter streaming_window_parameter() {
  Parameter p = window_parameter({{"released", "0"}, {"original", "0"}});
  p.minimum = 0;
  p.doc = "the last tokens kept; 0: what the budget leaves beside the sinks (4 in released)";
  return p;
}

}  // namespace

std::unique_ptr<Indicator> streaming_llm_scorer(const PolicySpec& spec) {
  return sinks_and_recent_indicator(spec.values.integer("sinks"));
}

const PolicyDescription& streaming_llm_policy() {
  static const PolicyDescription description = {
      .name = "streaming_llm",
      .idea = "Keeps the first tokens, which attention uses as a sink, and the most recent ones.",
      .paper = "Xiao et al., Efficient Streaming Language Models with Attention Sinks, ICLR 2024",
      .stages =
          "position → sinks + recent; each decode step (paper, original), once when the prompt ends "
          "(released, kvpress)",
      .needs = "nothing",
      .variants = {{"paper", "Xiao et al. 2024",
                    "4 sinks and the last M - 4 tokens after the prompt and after every step, one set per layer. Positions "
                    "stay as they are "
                    "in the text."},
                   {"released", "an-yongqi/rest-kv at a8bb112",
                    "Acts once, per query head: the last W prompt tokens and the first M - W. Its benchmark runners set W = "
                    "M - 4 (window=0 "
                    "here), its needle runner W = 32, which makes M - 32 \"sinks\"."},
                   {"original", "mit-han-lab/streaming-llm at 2e50426",
                    "As paper, with sinks + window written in the string; they win over the budget."},
                   {"kvpress", "NVIDIA/kvpress at 8bb29b9",
                    "Acts once: the sinks and the last M - sinks; a budget below the sinks keeps the first M tokens."}},
      .parameters = {sinks_parameter(), streaming_window_parameter()},
      .make = [](const PolicySpec& spec) -> std::unique_ptr<Policy> {
        if (spec.variant == "kvpress") return make_scorer_policy(streaming_llm_scorer(spec));
        if (spec.variant == "released") return std::make_unique<FirstAndLastPolicy>(spec.values.integer("window"));
        return std::make_unique<StreamingPolicy>(spec.values.integer("sinks"),
                                                 spec.variant == "original" ? spec.values.integer("window") : 0);
      },
  };
  return description;
}

}  // namespace kvreplay
