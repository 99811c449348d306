// Numbers that look random, the same in every run.
#pragma once

#include <cstdint>

namespace kvreplay::cuda {

__device__ inline std::uint32_t scramble(std::uint64_t x) {
  x = (x + 0x9e3779b97f4a7c15ULL) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ x >> 29) * 0x94d049bb133111ebULL;
  return static_cast<std::uint32_t>((x ^ x >> 32) >> 16);
}

// Normally distributed around 0.
template <class Element>
__global__ void fill_normal(Element* target, std::int64_t count, std::uint64_t seed, float deviation) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    const float u = (static_cast<float>(scramble(seed << 40 | 2 * i) >> 8) + 0.5F) / 16777216.0F;
    const float v = (static_cast<float>(scramble(seed << 40 | (2 * i + 1)) >> 8) + 0.5F) / 16777216.0F;
    target[i] = static_cast<Element>(deviation * sqrtf(-2 * logf(u)) * cospif(2 * v));
  }
}

}  // namespace kvreplay::cuda
