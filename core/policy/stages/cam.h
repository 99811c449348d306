// Cache merging (CaM, Zhang et al., ICML 2024): the value of a token that leaves is added, divided by their number, to the
// values of the tokens after it, with a probability that compares its attention with theirs. Keys stay as they are.
//
// A replay is open loop: the recorded queries, keys and values come from the full cache. That merged values change the
// layer's own prompt output, as the prompt forms do, cannot be seen here.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>

#include "core/policy/stages/counter_random.h"
#include "core/policy/stages/stages.h"

namespace kvreplay {

// How much of a value is merged: 1 with the probability given, else 0; or, in expectation, the probability itself.
struct MergeDraw {
  bool expectation = false;
  std::uint64_t seed = 0;

  // attention / reference as the published codes clamp it: 0/0 gives 0, x/0 gives 1.
  static double probability(double attention, double reference) {
    const double ratio = attention / reference;
    return std::isnan(ratio) ? 0 : std::clamp(ratio, 0.0, 1.0);
  }
  double operator()(double probability, std::int64_t layer, std::int64_t head, std::int64_t position) const {
    if (expectation) return probability;
    const auto bits = [](std::int64_t x) { return static_cast<std::uint64_t>(x); };
    const std::uint64_t number = random_number(seed, bits(layer), bits(head), bits(position));
    return static_cast<double>(number >> 11) * 0x1p-53 < probability ? 1 : 0;
  }
};

// When the prompt ends, as in the code released with ReST-KV and in KVCache-Factory: every token from ceil(P/10) on is
// merged into the W after it, one after the other, whether or not it is evicted; the top B by window attention stay.
std::unique_ptr<Policy> make_cam_prompt_policy(int window, Grouping grouping, MergeDraw draw);

// While decoding, on StreamingLLM's set, as in the authors' code.
struct CamStreamingSettings {
  int sinks = 4;
  int recent = 0;       // 0: what the budget leaves
  int neighbours = 32;  // how many later tokens share the value
  // As published: the query to come counts among the recent tokens, and a token is merged one step before it leaves, so
  // that one query sees it twice. Else it is merged when it leaves.
  bool published = false;
  Grouping grouping;
  MergeDraw draw;
};
std::unique_ptr<Policy> make_cam_streaming_policy(CamStreamingSettings settings);

// While decoding, as in kvpress: every `interval` steps down to the budget, one set for the layer.
struct CamIntervalSettings {
  bool key_norms = false;  // the scorer: minus the norm of the key; else StreamingLLM's (sinks and recent)
  int sinks = 4;
  int interval = 512;
  int neighbours = 32;
  MergeDraw draw;
};
std::unique_ptr<Policy> make_cam_interval_policy(CamIntervalSettings settings);

}  // namespace kvreplay
