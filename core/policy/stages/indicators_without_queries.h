// Indicators that look at keys and values alone, as NVIDIA/kvpress at 8bb29b9 computes them: [Hk, n], one row a KV head.
#pragma once

#include "core/base/tensor.h"
#include "core/policy/stages/stages.h"

namespace kvreplay {

// KeyDiff: minus the cosine of each key with the mean of all unit keys. Keys that differ from the others score high.
std::unique_ptr<Indicator> key_difference_indicator();
// Reads the candidates `chunk` at a time with a cache of the budget's size: after each, the best by the mean of the unit
// keys that are there stay.
std::unique_ptr<Selection> streamed_key_difference(int chunk);
// The score of `rows` of keys [n, d] among themselves.
std::vector<double> key_differences(TensorView<const float, 2> keys, const std::vector<std::int32_t>& rows);

// LagKV: how much a token spreads over its channels once these are scaled by the range that the next `lag` tokens have.
struct LagSettings {
  int sinks = 4;
  int lag = 128;
  // Scores of keys and values are compared as they are; else each block of `lag` tokens ranks its own.
  bool cross_scoring = false;
};
std::unique_ptr<Indicator> lag_indicator(LagSettings settings);
// Of rows [begin, begin + lag) by the range of the lag rows after them: softmax over the block of the standard deviation
// over channels, added to scores[0 ... lag - 1] times `weight`. NaN where a channel of the reference is constant.
void add_lag_scores(TensorView<const float, 2> rows, std::int64_t begin, std::int64_t lag, double weight,
                    std::span<double> scores);

}  // namespace kvreplay
