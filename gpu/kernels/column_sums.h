// Attention that each key receives from all queries (H2O, "heavy hitters"): Σ over the queries i that see key j of
// exp(scale · q_i · k_j - lse_i), without a [queries, keys] tensor in memory.
//
// Two rungs. `plain`: 64 × 64 tiles in shared memory, float64 throughout, every shape and type. `tensor`: Hopper's tensor
// cores with keys resident in registers and queries streamed past them (hopper_stream.cuh); products of the stored two-byte
// elements are exact, sums of products float32, the sum over queries float32 within a tile of 128 and compensated across
// tiles. Bound: 2 · d operations and one exponential for each visible pair.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "gpu/kernels/attention_shape.h"

namespace kvreplay::cuda {

// Bytes of `scratch`, whichever rung runs; 16-byte aligned.
std::size_t column_sums_scratch_bytes(const AttentionShape& shape);

// [in] query: [Hq, query_stride, d], row 0 of each head being the first query; key: [Hk, key_stride, d]; log_sum_exp: [Hq,
// queries], natural logarithm (gpu/kernels/log_sum_exp.h). [out] sums: [Hq, keys - first_key], for keys from first_key on.
// Element is float, __half or __nv_bfloat16.
template <class Element>
void column_sums(const Element* query, const Element* key, const float* log_sum_exp, const AttentionShape& shape,
                 std::int64_t first_key, float* sums, void* scratch, cudaStream_t stream);

template <class Element>
void column_sums_plain(const Element* query, const Element* key, const float* log_sum_exp, const AttentionShape& shape,
                       std::int64_t first_key, float* sums, cudaStream_t stream);

// Where hopper::supports(shape, query, key); Element of two bytes. `polynomial_eighths`: of every 8 exponentials, how many
// the FMA units evaluate: 0, 2 or 3 for __half at d = 128; elsewhere the default is taken.
inline constexpr int default_polynomial_eighths = 2;
template <class Element>
void column_sums_tensor(const Element* query, const Element* key, const float* log_sum_exp, const AttentionShape& shape,
                        std::int64_t first_key, float* sums, void* scratch, cudaStream_t stream,
                        int polynomial_eighths = default_polynomial_eighths);

}  // namespace kvreplay::cuda
