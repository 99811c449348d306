// Element types of a trace on the device, and one place that turns an ElementType into a template parameter.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "core/base/element_type.h"

namespace kvreplay::cuda {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// Calls body(pointer) with `data` as a pointer to its element type.
template <class Body>
void with_elements(ElementType type, const void* data, Body&& body) {
  switch (type) {
    case ElementType::float32: body(static_cast<const float*>(data)); return;
    case ElementType::float16: body(static_cast<const __half*>(data)); return;
    case ElementType::bfloat16: body(static_cast<const __nv_bfloat16*>(data)); return;
  }
}

constexpr int warp_size = 32;
constexpr unsigned all_lanes = 0xffffffffU;

template <class T>
__device__ T warp_sum(T value) {
  for (int offset = warp_size / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(all_lanes, value, offset);
  return value;
}

// Sum over the block, the same in every thread. `scratch` holds 33 elements; all threads must call it.
template <class T>
__device__ T block_sum(T value, T* scratch) {
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % warp_size == 0) scratch[threadIdx.x / warp_size] = value;
  __syncthreads();
  if (threadIdx.x < warp_size) {
    const T part = threadIdx.x < blockDim.x / warp_size ? scratch[threadIdx.x] : T{0};
    const T total = warp_sum(part);
    if (threadIdx.x == 0) scratch[warp_size] = total;
  }
  __syncthreads();
  return scratch[warp_size];
}

// Larger for larger scores; NaN is the largest; -0 ties with +0: order_key of core/backend/order_key.h.
__device__ inline unsigned order_key(float score) {
  if (score != score) return 0xffffffffU;
  unsigned bits = __float_as_uint(score);
  if (bits == 0x80000000U) bits = 0;
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

inline unsigned blocks_for(std::int64_t count, int per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

}  // namespace kvreplay::cuda
