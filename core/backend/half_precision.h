// The published half-precision pipeline: what the authors' code computes when the model runs in float16. Every operation
// rounds its result to float16 as PyTorch does there, sums are accumulated in float32: the product of queries and keys, the
// scaled logits, the attention weights after a float32 softmax, each step of an exponential moving average, norms, odds and
// pooled scores. Measuring (evaluate) stays in full precision.
//
// It exists to compare with numbers that were published in float16. Bit equality with a GPU is not reachable: the order in
// which a matrix product sums is its library's own. Attention summed over the whole prompt (H2O) is rounded once, at the
// end.
#pragma once

#include <memory>

#include "core/backend/backend.h"

namespace kvreplay {

// Does its work through `inner`, which must outlive it.
std::unique_ptr<Backend> make_half_precision_backend(Backend& inner);

}  // namespace kvreplay
