// What the kvpress variants share (NVIDIA/kvpress at 8bb29b9). Its presses work from a compression ratio r, the share of
// the cache that goes, score every candidate, and give protected slots a score above all others instead of taking them
// out. So OneShotStages.window is 0 there, and scores have all n columns.
#pragma once

#include <cstdint>

#include "core/policy/stages/stages.h"

namespace kvreplay {

// The ratio r that keeps `budget` of `length` tokens: 1 - budget / length in double precision, lowered one unit in the
// last place at a time until int(length · (1 - r)) is the budget. 0 where nothing has to go. Everything else that a press
// derives from r (chunks, pyramid, first stage, blending) has to come from this value.
double kvpress_ratio(std::int64_t length, std::int64_t budget);

// Python's int(): towards zero.
inline std::int64_t truncated(double value) { return static_cast<std::int64_t>(value); }

// Scores of m columns with `before` columns put in front and `after` behind, which get the largest score of all heads
// plus `above`: they win. [H, m] to [H, before + m + after]
Array with_forced_ends(LayerWorkspace& layer, const Array& scores, std::int64_t before, std::int64_t after, float above = 1);

// `scored`'s scores of all candidates but the last `window`, pooled; the window is forced.
std::unique_ptr<Indicator> forced_window_indicator(std::unique_ptr<Indicator> scored, std::unique_ptr<Pooling> pooling,
                                                   int window, std::string pooling_key);
// A score for the whole layer [1, n], repeated for every KV head.
std::unique_ptr<Indicator> repeated_indicator(std::unique_ptr<Indicator> scored);
// 1 for the first `sinks` tokens and for the recent ones that fill the budget, 0 for the others.
std::unique_ptr<Indicator> sinks_and_recent_indicator(int sinks);

// `scored`'s scores, their first stage lifted above all others and the rest weighted by projected_value_norms(): the best
// budget of them are CriticalKV's choice.
std::unique_ptr<Indicator> critical_indicator(std::unique_ptr<Indicator> scored, double first_stage, double epsilon);
// Attention received from the last `window` queries; each query's weights are multiplied by a number of tokens, so that
// those that see many do not give each too little: those before the query, as published, or those that it sees, itself too.
enum class FinchCount : std::uint8_t { none, before, visible };
std::unique_ptr<Indicator> finch_indicator(int window, FinchCount count);

// Head budgets: the best H · M scores of the layer, whatever their head, where each head is sure of its own best
// int(M · safeguard). They sum to H · M.
std::unique_ptr<Allocation> safeguard_allocation(double safeguard);
// PyramidKV in real arithmetic, window included, rounded half to even; the uniform budget in every layer where the
// smallest layer would not hold the window.
std::unique_ptr<Allocation> kvpress_pyramid_allocation(int beta, int window);

}  // namespace kvreplay
