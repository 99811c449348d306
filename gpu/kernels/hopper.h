// Host side of the Hopper kernels: whether they may run here, and the maps by which the TMA finds rows.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "gpu/kernels/attention_shape.h"

namespace kvreplay::cuda::hopper {

// The current device is of compute capability 9.0 and this program has code of sm_90a for it.
bool available();

// What the kernels on wgmma share: head dimension 64 or 128, no soft cap, a positive scale, rows aligned to 16 bytes, and
// available(). The element type must be one of two bytes.
bool supports(const AttentionShape& shape, const void* query, const void* key);

// A tensor [heads, rows, head_dim] of two-byte elements, `stride` rows from one head to the next, read in boxes of 64
// elements by `box_rows` rows with the 128-byte swizzle. Rows from `rows` on read as 0.
CUtensorMap map_rows(const void* base, bool bfloat16, int head_dim, std::int64_t rows, int heads, std::int64_t stride,
                     int box_rows);

}  // namespace kvreplay::cuda::hopper
