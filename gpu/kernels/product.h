// Plain matrix products in float32: the first rung of every product, and the only one for float32 traces.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/base/element_type.h"

namespace kvreplay::cuda {

struct Matrix {
  const void* data = nullptr;
  ElementType type = ElementType::float32;
  std::int64_t stride = 0;        // of a row, elements
  std::int64_t batch_stride = 0;  // from one product to the next, elements
  int batch_group = 1;            // so many products in a row use the same matrix
};

// out[b][i][j] = factor · Σ_k left[b][i][k] · right[b][j][k], summed in float32 (cap > 0: cap · tanh(that / cap)).
// left [rows, inner], right [columns, inner], out [rows, columns] with row stride out_stride, batch stride out_batch.
void launch_product_nt(const Matrix& left, const Matrix& right, std::int64_t batch, std::int64_t rows, std::int64_t columns,
                       std::int64_t inner, float factor, float cap, float* out, std::int64_t out_stride,
                       std::int64_t out_batch, cudaStream_t stream);

// gram [Hq, d, d] float64 of W_o [C, Hq · d]: Σ_c W[c, h·d + i] · W[c, h·d + j].
void launch_gram(const void* projection, ElementType type, std::int64_t hidden, std::int64_t heads, std::int64_t dim,
                 double* gram, cudaStream_t stream);

}  // namespace kvreplay::cuda
