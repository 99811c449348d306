// Removal errors on Hopper's asynchronous tensor cores: the rung above the mma.sync kernel of removal_fused.h, with the same
// results. Called through removal_fused.h.
#pragma once

#include "gpu/kernels/removal_fused.h"

namespace kvreplay::cuda::hopper {

// Two-byte elements, d = 64 or 128, rows aligned to 16 bytes, a device of compute capability 9.0 and code for it.
bool supports(const FusedRemoval& removal);

// How an upper triangular factor is used, for float16, d = 128 and groups above 2; elsewhere `halves`.
enum class Triangle { none, mixed_32, mixed_16, mixed_32_fenced, mixed_16_fenced, halves, half_and_quarters, quarters };

void removal_error(const FusedRemoval& removal, const float* center, const float* odds, float tau, float* error,
                   int multiprocessors, cudaStream_t stream, Triangle form = Triangle::halves);

}  // namespace kvreplay::cuda::hopper
