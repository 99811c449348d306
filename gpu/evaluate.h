// What kept sets do to the decode queries, on the device (core/backend/evaluation.h). Internal to gpu.
#pragma once

#include "core/base/tensor.h"
#include "gpu/layer.h"

namespace kvreplay::cuda {

// How much of a layer evaluate() works on at once: as many KV heads and decode steps as fit one bound, as many runs as fit
// another. Rows of other shapes than the bounds allow are computed again for each batch of runs.
struct EvaluationPlan {
  int steps = 0, kv_heads = 0;  // of a block
  std::int64_t runs = 0;        // of a batch
  std::int64_t bytes = 0;       // device memory beyond the layer's keys, values, queries and the lists of kept tokens

  // `runs` in all; projection_bytes: of W_o, which is on the device meanwhile.
  EvaluationPlan(const LoadedLayer& layer, std::int64_t runs, const EvaluationRequest& request,
                 std::int64_t projection_bytes);
};

// Runs whose rows were changed (CacheChanges) are measured by the CPU backend: they are few, and each would need keys and
// values of its own.
void evaluate(const CudaLayer& layer, const std::vector<RunEvictions>& runs, const EvaluationRequest& request,
              EvaluationSink& sink);
// As Backend has them.
Tensor<float, 2> decode_logits(const CudaLayer& layer, int query_head);
Buffer<float> decode_attention_sum(const CudaLayer& layer);  // [Hq, n]

}  // namespace kvreplay::cuda
