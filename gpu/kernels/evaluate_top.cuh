// The largest logit of a row and where it is, as one number that atomicMax() can keep. Included by kernels alone.
#pragma once

#include "gpu/kernels/elements.cuh"

namespace kvreplay::cuda {

// The larger logit is larger, and among equals the lower column. Above 0.
__device__ inline unsigned long long top_of(float logit, int column) {
  return static_cast<unsigned long long>(order_key(logit)) << 32 | (0xffffffffU - static_cast<unsigned>(column));
}
__device__ inline float logit_of_top(unsigned long long top) {
  const auto key = static_cast<unsigned>(top >> 32);
  return __uint_as_float((key & 0x80000000U) != 0 ? key ^ 0x80000000U : ~key);
}
__device__ inline int column_of_top(unsigned long long top) {
  return static_cast<int>(0xffffffffU - static_cast<unsigned>(top));
}

}  // namespace kvreplay::cuda
