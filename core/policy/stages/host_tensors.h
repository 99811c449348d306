// For indicators that compute on the host, in float64, because no backend operation does it: the layer's tensors, read
// once and shared, and the way back to the backend.
#pragma once

#include "core/base/tensor.h"
#include "core/policy/layer_workspace.h"

namespace kvreplay {

// Of the n candidates, as stored (queries and keys after RoPE).
const Tensor<float, 3>& candidate_keys(LayerWorkspace& layer);    // [Hk, n, d]
const Tensor<float, 3>& candidate_values(LayerWorkspace& layer);  // [Hk, n, d]
// Throws Error naming the first position whose query was not recorded.
const Tensor<float, 3>& candidate_queries(LayerWorkspace& layer);  // [Hq, n, d]
// Head [n, d] of candidates before RoPE, after any bias and norm. Throws Error when the trace does not say how it was
// turned.
// kv_head: the one that it belongs to, for the positions that its slots were rotated for.
Tensor<double, 2> before_rope(LayerWorkspace& layer, TensorView<const float, 2> head, std::int64_t kv_head);
// Makes what before_rope() needs. To be called once before it is used on several threads.
void prepare_before_rope(LayerWorkspace& layer);

// Scores [H, n] rounded to float32, where the backend lives.
Array upload_scores(LayerWorkspace& layer, const Tensor<double, 2>& scores);

// Minus the mean of all elements, divided by their (unbiased) deviation, at least 1e-6.
void standardize(Tensor<double, 2>& scores);

// Euclidean norm of the elements of a head.
double length_of(std::span<const float> head);

}  // namespace kvreplay
