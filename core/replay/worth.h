// Which evicted tokens would be worth the most if they came back.
#pragma once

#include <cstdint>
#include <vector>

#include "core/policy/layer_workspace.h"

namespace kvreplay {

// What a run's mean squared head error becomes when one token alone is restored in one row of one layer: the mean over the
// query heads that read the row and over the measured decode steps of head_output_error squared, ‖o' - o‖² / ‖o‖².
struct TokenWorth {
  int layer = 0;          // the model's own index
  std::int64_t head = 0;  // row of evicted_at: a query head, a KV head or 0, by granularity
  std::int64_t token = 0;
  double error = 0, restored_error = 0;  // as the run is, and with the token restored
};

// The `count` evicted tokens of every row whose restoration lowers that error most, the best first; among equals the lowest
// position. Exact single restorations: with S the sum of exp(z) over the kept set, e the token's own, and δ = o' - o,
//
//   δ_restored = (S δ + e (v - o)) / (S + e)
//
// so one pass over the evicted values of each query tells them all, where a replay each would take as many passes.
// evicted_at [H, T]; measured [S]: which decode steps count, empty for all.
std::vector<TokenWorth> most_worth_restoring(LayerWorkspace& layer, TensorView<const std::int32_t, 2> evicted_at,
                                             const std::vector<bool>& measured, std::int64_t count);

}  // namespace kvreplay
