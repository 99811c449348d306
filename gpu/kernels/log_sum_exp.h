// ln Σ over the keys j that query i sees of exp(scale · q_i · k_j): the normaliser of attention, without a [queries, keys]
// tensor in memory.
//
// Rungs as in column_sums.h, with queries resident and keys streamed. Every thread keeps a running maximum of its own for
// each of its rows and they are merged at the end, so logits of any size are right.
#pragma once

#include <cuda_runtime_api.h>

#include "gpu/kernels/attention_shape.h"

namespace kvreplay::cuda {

// [in] query: [Hq, query_stride, d], row 0 of each head being the first query; key: [Hk, key_stride, d].
// [out] log_sum_exp: [Hq, queries]. Element is float, __half or __nv_bfloat16.
template <class Element>
void log_sum_exp(const Element* query, const Element* key, const AttentionShape& shape, float* log_sum_exp,
                 cudaStream_t stream);

template <class Element>
void log_sum_exp_plain(const Element* query, const Element* key, const AttentionShape& shape, float* log_sum_exp,
                       cudaStream_t stream);

// Where hopper::supports(shape, query, key); Element of two bytes. polynomial_eighths: see column_sums_tensor.
inline constexpr int default_log_sum_exp_eighths = 0;
template <class Element>
void log_sum_exp_tensor(const Element* query, const Element* key, const AttentionShape& shape, float* log_sum_exp,
                        cudaStream_t stream, int polynomial_eighths = default_log_sum_exp_eighths);

}  // namespace kvreplay::cuda
