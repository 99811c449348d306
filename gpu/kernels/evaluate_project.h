// The layer step of many runs on tensor cores: evaluate_layer.h's sums for a projection W_o of two-byte numbers.
//
// W_o is an exact operand; a float32 row is the sum of two float16 parts under a power of two of its own, which hold 22 of
// its 24 bits for every element above 2^-29 of the row's largest one, and products are accumulated in float32. Relative to
// the norm that costs 2^-23 for each element, independent of each other, beside what float32 sums of a few thousand products
// cost anyway: 1e-5 holds for it as for the plain form. bfloat16 W_o becomes float16 under a power of two for each of its
// rows: exact for elements above 2^-32 of the row's largest.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/base/element_type.h"
#include "gpu/kernels/evaluate_layer.h"

namespace kvreplay::cuda {

// W_o [hidden, inner] in float16. unit: [hidden] factors, null where the elements are W_o's own.
struct HalfProjection {
  const void* elements = nullptr;
  const float* unit = nullptr;
  std::int64_t hidden = 0, inner = 0;
};

// Whether rows of `inner` elements are taken apart and projected here; type: of W_o.
bool half_projection_supported(ElementType type, std::int64_t inner);

// out [hidden, inner] float16 and unit [hidden] of W_o in bfloat16.
void launch_half_projection(const void* projection, std::int64_t hidden, std::int64_t inner, void* out, float* unit,
                            cudaStream_t stream);

// Every row of `inner` float32 numbers becomes, in its place, `inner` float16 high parts and `inner` low ones, together the
// row over unit[row].
void launch_split_rows(float* rows, std::int64_t count, std::int64_t inner, float* unit, cudaStream_t stream);

// before [count, hidden] = split rows · W_oᵀ.
void launch_project_split(const float* split, const float* unit, std::int64_t count, const HalfProjection& projection,
                          float* before, cudaStream_t stream);

// launch_layer_sums() of split rows; `partial` as there.
void launch_layer_sums_split(const float* split, const float* unit, std::int64_t rows, const HalfProjection& projection,
                             const float* before, std::int64_t steps, LayerSums* partial, LayerSums* sums,
                             cudaStream_t stream);

}  // namespace kvreplay::cuda
