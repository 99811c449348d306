// Norms of what all heads of a layer do together: Σ_h W_h (o'_h - o_h) for every run and step, of which no vector is stored.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/base/element_type.h"
#include "gpu/kernels/evaluate_block.h"

namespace kvreplay::cuda {

// Of one row (run and step).
struct LayerSums {
  double difference;  // ‖Σ W_h (o' - o)‖²
  double kept;        // ‖Σ W_h o'‖²
  double inner;       // <Σ W_h o, Σ W_h o'>
};

// outputs [steps, Hq · d] from o [KV heads of the block, rows, d].
void launch_place_outputs(const float* output, const EvaluationBlock& block, float* outputs, cudaStream_t stream);

// before [steps, C] = outputs [steps, inner] · projection [C, inner]^T in float32.
void launch_project(const float* outputs, std::int64_t steps, const void* projection, ElementType type, std::int64_t hidden,
                    std::int64_t inner, float* before, cudaStream_t stream);

// sums [rows] of difference [rows, inner] · projection^T; row r is step r % steps of a run. Products and sums over `inner`
// in float32, norms in float64: relative to the norm the result is within 1e-5 of float64's, as sums of a few thousand
// float32 products are. evaluate_project.h has the same on tensor cores. partial: layer_partial_count() elements.
constexpr int layer_tile = 128;  // columns of a partial sum
std::int64_t layer_partial_count(std::int64_t rows, std::int64_t hidden);
void launch_layer_sums(const float* difference, std::int64_t rows, const void* projection, ElementType type,
                       std::int64_t hidden, std::int64_t inner, const float* before, std::int64_t steps, LayerSums* partial,
                       LayerSums* sums, cudaStream_t stream);

// sums [rows] = Σ over `pieces` of partial [rows, pieces].
void launch_add_partials(const LayerSums* partial, std::int64_t rows, int pieces, LayerSums* sums, cudaStream_t stream);

// The same without a projection: before [steps, width] are the concatenated heads.
void launch_concatenated_sums(const float* difference, std::int64_t rows, std::int64_t width, const float* before,
                              std::int64_t steps, LayerSums* sums, cudaStream_t stream);

// squared [rows] = ‖vectors[row]‖², float64.
void launch_squared_norms(const float* vectors, std::int64_t rows, std::int64_t width, double* squared, cudaStream_t stream);

}  // namespace kvreplay::cuda
