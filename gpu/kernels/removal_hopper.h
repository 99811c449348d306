// Removal errors on Hopper's asynchronous tensor cores: the rung above the mma.sync kernel of removal_fused.h, with the same
// results. Called through removal_fused.h.
#pragma once

#include "gpu/kernels/removal_fused.h"

namespace kvreplay::cuda::hopper {

// Two-byte elements, d = 64 or 128, rows aligned to 16 bytes, a device of compute capability 9.0 and code for it.
bool supports(const FusedRemoval& removal);

// How the zeros below the diagonal of a factor are left out: accumulators of so many columns each, which start at the k of
// their first row. Products into one accumulator all have one shape: only those are ordered without a fence.
enum class Triangle { none, half_and_quarters, quarters };

void removal_error(const FusedRemoval& removal, const float* center, const float* odds, float tau, float* error,
                   int multiprocessors, cudaStream_t stream, Triangle form = Triangle::half_and_quarters);

}  // namespace kvreplay::cuda::hopper
