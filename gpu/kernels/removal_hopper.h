// Removal errors on Hopper's asynchronous tensor cores: the rung above the mma.sync kernel of removal_fused.h, with the same
// results. Called through removal_fused.h.
#pragma once

#include "gpu/kernels/removal_fused.h"

namespace kvreplay::cuda::hopper {

// Two-byte elements, d = 64 or 128, rows aligned to 16 bytes, a device of compute capability 9.0 and code for it.
bool supports(const FusedRemoval& removal);

// Of an upper triangular factor, columns of R_hᵀ are left out in blocks of `grain`: 32 (five eighths of the work are left at
// d = 128), or 16 (9 / 16, in smaller products) for float16, d = 128 and groups above 2.
constexpr int default_triangle_grain = 32;
void removal_error(const FusedRemoval& removal, const float* center, const float* odds, float tau, float* error,
                   int multiprocessors, cudaStream_t stream, int grain = default_triangle_grain);

}  // namespace kvreplay::cuda::hopper
