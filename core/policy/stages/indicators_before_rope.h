// Indicators that need queries or keys before RoPE, as NVIDIA/kvpress at 8bb29b9 computes them: [Hk, n], one row a KV head.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/base/tensor.h"
#include "core/policy/stages/stages.h"

namespace kvreplay {

// Expected attention: of queries to come, if they are normal with the mean and covariance of the prompt's own before RoPE
// and stand at any of the `future` positions after it.
struct ExpectedAttentionSettings {
  int future = 512;
  int sinks = 4;  // neither scored nor counted in the moments; they get the largest score + 1
  bool covariance = true;
  bool value_norm = true;  // (attention + epsilon) · ‖v‖
  double epsilon = 0;
};
std::unique_ptr<Indicator> expected_attention_indicator(ExpectedAttentionSettings settings);

// A random matrix that keys are projected with, N(0, 1) / sqrt(columns).
struct SketchSettings {
  int columns = 48;
  int seed = 0;
  std::string policy;  // full text: a trace may record the matrix that published code drew for this very policy
};
// Of the keys sketch and seed. A trace records matrices for policies of that name alone, not for those built on it.
SketchSettings sketch_settings_of(const PolicySpec& spec, const std::string& policy);
// [Hk, d, columns]: the one that the trace records for the policy, else from a counter-based generator.
Tensor<double, 3> sketch_of(LayerWorkspace& layer, const SketchSettings& settings);
// Statistical leverage of `rows` [n, d] among themselves, approximated with a sketch [d, columns]:
// y_jᵀ (YᵀY + 0.01 I)⁻¹ y_j of the centred and projected rows y. [n]
std::vector<double> leverage_scores(TensorView<const double, 2> rows, TensorView<const double, 2> sketch);
// Of the keys before RoPE, standardized over all heads and positions.
std::unique_ptr<Indicator> leverage_indicator(SketchSettings settings);

// Leverage times `blending` plus the attention within chunks that no causal mask and no scale changes, times ‖v‖.
struct CompactorSettings {
  int sinks_start = 8, sinks_end = 4;  // not scored; they get the largest score
  int chunk = 256;
  std::optional<double> blending;  // none: the compression ratio
  SketchSettings sketch;
};
std::unique_ptr<Indicator> compactor_indicator(CompactorSettings settings);

}  // namespace kvreplay
