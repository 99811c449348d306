// The error of removing one token, odds · ‖R_h (o - v)‖: the plain forms, from projected values that were written out.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/base/element_type.h"

namespace kvreplay::cuda {

struct RemovalShape {
  int window = 0;            // W, rows of this head
  std::int64_t columns = 0;  // n
  int dim = 0;               // d
  int rank = 0;              // r: rows of R, or d without one
};

// One query head. points [r, n]: R · v of every candidate; centers [W, r]: R · o of every row; weight [W, n]; error [W, n].
// normalize: divided by ‖R o‖. One thread a column; bound by the float32 rate, 2 r operations for each of W · n errors.
void launch_removal_errors(const float* points, const float* centers, const float* weight, const RemovalShape& shape,
                           bool normalize, float* error, cudaStream_t stream);

// The least that 1 - a counts as: where every other weight underflows, odds stay finite.
inline constexpr float least_rest = 1e-37F;

// Of all query heads, where a row's weight is above 1/2 (dominant as AttentionRows has it): a · ‖R (rest / (1 - a) - v)‖,
// the same number without the differences of nearly equal ones. value: of the first KV head's candidate 0; factor [Hq, r, d]
// or null.
void launch_dominant_errors(const float* weight, const float* dominant, const float* rest, const void* value,
                            ElementType type, std::int64_t value_head_stride, int group, const float* factor,
                            const float* centers, const RemovalShape& shape, std::int64_t heads, bool normalize,
                            float* error, cudaStream_t stream);

// One center for every head (attention averaged over the window first). points, centers as above with W = 1; mean [n] of
// this head; rows [W, n] and dominant [W, 2] of this head say 1 - a exactly where the average is above 1/2.
void launch_removal_error_of_mean(const float* points, const float* center, const float* mean, const float* rows,
                                  const float* dominant, const float* weights, const RemovalShape& shape, float tau,
                                  float* error, cudaStream_t stream);

// center [Hq, d] = Σ_{c < columns} mean[h, c] · v_c in float64.
void launch_mean_output(const float* mean, std::int64_t mean_stride, const void* value, ElementType type,
                        std::int64_t value_head_stride, int group, std::int64_t heads, std::int64_t columns, int dim,
                        float* center, cudaStream_t stream);

// center [Hq, d] = Σ_w weights[w] · output[h, w, :] in float64.
void launch_weighted_outputs(const float* output, std::int64_t heads, int window, int dim, const float* weights,
                             float* center, cudaStream_t stream);

}  // namespace kvreplay::cuda
