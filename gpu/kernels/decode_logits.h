// Logits of decode queries with keys. Rungs: plain, right for every shape and type, bound by the float32 rate; and by tensor
// cores for float16 and bfloat16, whose products are exact in float32, so that only the order of additions differs: bound by
// writing the logits.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/base/element_type.h"
#include "gpu/kernels/evaluate_block.h"

namespace kvreplay::cuda {

// Queries of `heads` heads from first_head on as float32: out [heads, steps, d]. queries [Hq, recorded, d]; query_row
// [steps]: the recorded row of each step, -1 where there is none (then the row is 0).
void launch_gather_queries(const void* queries, ElementType type, std::int64_t recorded, const std::int32_t* query_row,
                           int first_head, int heads, int steps, int dim, float* out, cudaStream_t stream);

// logits [rows, columns] of one KV head's rows: scale · q·k summed in float32, soft-capped where cap > 0; -inf where the row
// does not see the position, NaN in rows that were not recorded. query: [rows, d] float32, numbers of the key's type; key:
// of that head's position 0. top [rows], where it is given: the largest logit and its first column, as top_of() packs them;
// 0 in rows that were not recorded.
void launch_decode_logits(const float* query, const void* key, ElementType key_type, const std::int32_t* query_row,
                          const EvaluationBlock& block, float scale, float cap, float* logits, cudaStream_t stream,
                          unsigned long long* top = nullptr);
// The first rung, whatever the type.
void launch_decode_logits_plain(const float* query, const void* key, ElementType key_type, const std::int32_t* query_row,
                                const EvaluationBlock& block, float scale, float cap, float* logits, cudaStream_t stream,
                                unsigned long long* top = nullptr);

}  // namespace kvreplay::cuda
