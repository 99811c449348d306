// Full attention of a few queries (the decode steps of a trace) with all keys that they see: o = softmax(scale · q·kᵀ) v.
//
// Rungs. `plain`: float64 throughout, every shape and type. `tensor`: Hopper's tensor cores; the G · S rows of a KV head
// share every key and value that is read, blocks split the keys between them, and a second kernel joins their parts ("flash
// decoding"). Weights are two-byte numbers in the second product, relative to the largest logit so far, and normalised by
// the sum of the rounded weights: relative rounding 2^-12 (float16) or 2^-9 (bfloat16) for each weight, independent of each
// other. With `split_weights` each weight is the sum of two such numbers (float32 grade with float16), for half as many
// operations again. The log-sum-exp is of unrounded weights in both. Bound: 4 d operations for each query row and key; keys
// and values are read once from memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "gpu/kernels/attention_shape.h"

namespace kvreplay::cuda {

// Bytes of `scratch` on the current device, whichever rung runs; 16-byte aligned.
std::size_t decode_attention_scratch_bytes(const AttentionShape& shape);

// [in] query: [Hq, query_stride, d], row 0 of each head being the first decode query; key, value: [Hk, key_stride, d].
// [out] output: [Hq, queries, d]; log_sum_exp: [Hq, queries], natural logarithm. Element is float, __half or __nv_bfloat16.
template <class Element>
void decode_attention(const Element* query, const Element* key, const Element* value, const AttentionShape& shape,
                      float* output, float* log_sum_exp, void* scratch, cudaStream_t stream, bool split_weights = false);

template <class Element>
void decode_attention_plain(const Element* query, const Element* key, const Element* value, const AttentionShape& shape,
                            float* output, float* log_sum_exp, cudaStream_t stream);

// Where hopper::supports(shape, query, key) and value is aligned to 16 bytes; Element of two bytes.
template <class Element>
void decode_attention_tensor(const Element* query, const Element* key, const Element* value, const AttentionShape& shape,
                             float* output, float* log_sum_exp, void* scratch, cudaStream_t stream,
                             bool split_weights = false);

}  // namespace kvreplay::cuda
