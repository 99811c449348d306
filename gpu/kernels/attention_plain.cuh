// The plain rung of the attention kernels: 64 × 64 tiles of q·k in shared memory, float64 accumulation, any element type,
// any head dimension. Bound by the float64 (or conversion) rate; the reference that the fast rungs are checked against.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "gpu/kernels/attention_shape.h"

namespace kvreplay::cuda::plain {

constexpr int tile = 64;      // rows and columns of a block's product
constexpr int threads = 256;  // 16 × 16, each with 4 × 4 cells: rows y + 16 i, columns x + 16 j
constexpr int slice = 32;     // elements of d in shared memory at a time

struct TileMemory {
  float a[tile][slice + 1];
  float b[tile][slice + 1];
};

template <class Element>
__device__ inline float number(const Element* source) {
  return static_cast<float>(*source);
}

// rows [tile, slice] of `source`, which has `valid` rows; the rest is 0.
template <class Element>
__device__ inline void load_slice(const Element* source, int valid, int head_dim, int from,
                                  float (&target)[tile][slice + 1]) {
  for (int i = threadIdx.x; i < tile * slice; i += threads) {
    const int row = i / slice, column = from + i % slice;
    const bool inside = row < valid && column < head_dim;
    target[row][i % slice] = inside ? number(source + static_cast<std::int64_t>(row) * head_dim + column) : 0.0F;
  }
}

// cell[i][j] = Σ a[y + 16 i] · b[x + 16 j].
template <class A, class B>
__device__ inline void multiply(const A* a, int a_valid, const B* b, int b_valid, int head_dim, TileMemory& memory,
                                double (&cell)[4][4]) {
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
  for (int i = 0; i < 16; ++i) cell[i / 4][i % 4] = 0;
  for (int from = 0; from < head_dim; from += slice) {
    __syncthreads();  // the slice before, or whoever used the memory before, is read
    load_slice(a, a_valid, head_dim, from, memory.a);
    load_slice(b, b_valid, head_dim, from, memory.b);
    __syncthreads();
    for (int k = 0; k < slice; ++k)
#pragma unroll
      for (int i = 0; i < 16; ++i)
        cell[i / 4][i % 4] +=
            static_cast<double>(memory.a[y + i / 4 * 16][k]) * static_cast<double>(memory.b[x + i % 4 * 16][k]);
  }
}

__device__ inline double logit(double product, double scale, double softcap) {
  const double z = product * scale;
  return softcap > 0 ? softcap * tanh(z / softcap) : z;
}

// Sum over the 16 threads of a row of cells.
__device__ inline double sum_over_row(double value) {
  for (int offset = 8; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffU, value, offset);
  return value;
}

}  // namespace kvreplay::cuda::plain
