// What kept sets do to the decode queries, on the device (core/backend/evaluation.h). Internal to gpu.
#pragma once

#include "core/base/tensor.h"
#include "gpu/layer.h"

namespace kvreplay::cuda {

void evaluate(const CudaLayer& layer, const std::vector<RunEvictions>& runs, const EvaluationRequest& request,
              EvaluationSink& sink);
// As Backend has them.
Tensor<float, 2> decode_logits(const CudaLayer& layer, int query_head);
Buffer<float> decode_attention_sum(const CudaLayer& layer);  // [Hq, n]

}  // namespace kvreplay::cuda
