// Norms, reductions over heads, pooling over positions: element-wise work, bound by memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/backend/backend.h"

namespace kvreplay::cuda {

// out [heads, rest] over `group` neighbouring heads of scores [heads · group, rest]; sums in float64, NaN is the largest.
void launch_reduce_group(const float* scores, std::int64_t heads, std::int64_t rest, int group, Reduction how, float* out,
                         cudaStream_t stream);
// out [Hk, n]: norms of rows [.., d] that start at `rows`, heads head_stride elements apart; squares summed in float64.
void launch_norms(const void* rows, ElementType type, std::int64_t head_stride, std::int64_t heads, std::int64_t columns,
                  int dim, float* out, cudaStream_t stream);
// out [heads, n] = factor · scores · factors[head / group].
void launch_multiply(const float* scores, const float* factors, std::int64_t heads, std::int64_t columns, std::int64_t group,
                     double factor, float* out, cudaStream_t stream);
// As Backend::average_pool for at most max_pool_heads heads; each column summed afresh, in float64, left to right.
// stride: from one row of the scores to the next, elements; 0: columns.
inline constexpr int max_pool_heads = 128;
struct PoolWindows {
  int kernel[max_pool_heads], shift[max_pool_heads];
  double reciprocal[max_pool_heads];  // filled in by the launcher
};
void launch_average_pool(const float* scores, std::int64_t heads, std::int64_t columns, const PoolWindows& windows,
                         Padding padding, float* out, cudaStream_t stream, std::int64_t stride = 0);
void launch_max_pool(const float* scores, std::int64_t heads, std::int64_t columns, int kernel, float* out,
                     cudaStream_t stream, std::int64_t stride = 0);
// *first becomes the lowest index of an element that is NaN or infinite; it must hold a larger number before.
void launch_find_not_finite(const void* elements, ElementType type, std::int64_t count, unsigned long long* first,
                            cudaStream_t stream);

}  // namespace kvreplay::cuda
