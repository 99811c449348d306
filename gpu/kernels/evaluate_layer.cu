#include "gpu/kernels/evaluate_layer.h"

#include "gpu/device.h"
#include "gpu/kernels/elements.cuh"

namespace kvreplay::cuda {
namespace {

constexpr int tile = layer_tile, depth = 16, threads = 256, per_thread = 8, loads = tile * depth / threads;

// Four numbers of padding keep rows aligned for loads of four.
struct ProductTiles {
  float left[depth][tile + 4], right[depth][tile + 4];
};

// The thread's part of the tile is two groups of four rows by two groups of four columns.
__device__ int part_index(int which, int i) { return which * 4 + i % 4 + i / 4 * (tile / 2); }

// A 128 × 128 tile of left · right^T, 8 × 8 for each thread. Bound by the float32 rate.
template <class Element>
__device__ void product_tile(const float* left, std::int64_t rows, const Element* right, std::int64_t columns,
                             std::int64_t inner, std::int64_t first_row, std::int64_t first_column, ProductTiles& shared,
                             float (&sum)[per_thread][per_thread]) {
  const int thread = static_cast<int>(threadIdx.x), x = thread % 16, y = thread / 16;
  float next_left[loads], next_right[loads];
  const auto load = [&](std::int64_t begin) {
#pragma unroll
    for (int i = 0; i < loads; ++i) {
      const std::int64_t r = (thread + i * threads) / depth, k = begin + (thread + i * threads) % depth;
      next_left[i] = k < inner && first_row + r < rows ? left[(first_row + r) * inner + k] : 0.0F;
      next_right[i] = k < inner && first_column + r < columns ? to_float(right[(first_column + r) * inner + k]) : 0.0F;
    }
  };
  load(0);
  for (std::int64_t begin = 0; begin < inner; begin += depth) {
#pragma unroll
    for (int i = 0; i < loads; ++i) {
      const int r = (thread + i * threads) / depth, k = (thread + i * threads) % depth;
      shared.left[k][r] = next_left[i];
      shared.right[k][r] = next_right[i];
    }
    __syncthreads();
    load(begin + depth);
#pragma unroll 4
    for (int k = 0; k < depth; ++k) {
      float a[per_thread], b[per_thread];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<float4*>(a + 4 * half) =
            *reinterpret_cast<const float4*>(&shared.left[k][part_index(y, 4 * half)]);
        *reinterpret_cast<float4*>(b + 4 * half) =
            *reinterpret_cast<const float4*>(&shared.right[k][part_index(x, 4 * half)]);
      }
#pragma unroll
      for (int i = 0; i < per_thread; ++i)
#pragma unroll
        for (int j = 0; j < per_thread; ++j) sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
    }
    __syncthreads();
  }
}

template <class Element>
__global__ void __launch_bounds__(threads, 2) project(const float* outputs, std::int64_t steps, const Element* projection,
                                                      std::int64_t hidden, std::int64_t inner, float* before) {
  __shared__ __align__(16) ProductTiles shared;
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.y) * tile,
                     first_column = static_cast<std::int64_t>(blockIdx.x) * tile;
  float sum[per_thread][per_thread] = {};
  product_tile(outputs, steps, projection, hidden, inner, first_row, first_column, shared, sum);
#pragma unroll
  for (int i = 0; i < per_thread; ++i)
#pragma unroll
    for (int j = 0; j < per_thread; ++j) {
      const std::int64_t row = first_row + part_index(static_cast<int>(threadIdx.x) / 16, i),
                         column = first_column + part_index(static_cast<int>(threadIdx.x) % 16, j);
      if (row < steps && column < hidden) before[row * hidden + column] = sum[i][j];
    }
}

// partial [rows, column tiles]
template <class Element>
__global__ void __launch_bounds__(threads, 2)
    layer_partials(const float* difference, std::int64_t rows, const Element* projection, std::int64_t hidden,
                   std::int64_t inner, const float* before, std::int64_t steps, LayerSums* partial) {
  __shared__ __align__(16) ProductTiles shared;
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.y) * tile,
                     first_column = static_cast<std::int64_t>(blockIdx.x) * tile;
  float sum[per_thread][per_thread] = {};
  product_tile(difference, rows, projection, hidden, inner, first_row, first_column, shared, sum);
  const int x = static_cast<int>(threadIdx.x) % 16, y = static_cast<int>(threadIdx.x) / 16;
#pragma unroll
  for (int i = 0; i < per_thread; ++i) {
    const std::int64_t row = first_row + part_index(y, i);
    LayerSums sums{};
#pragma unroll
    for (int j = 0; j < per_thread; ++j) {
      const std::int64_t column = first_column + part_index(x, j);
      if (row >= rows || column >= hidden) continue;
      const double delta = sum[i][j], o = before[row % steps * hidden + column], after = o + delta;
      sums.difference += delta * delta;
      sums.kept += after * after;
      sums.inner += o * after;
    }
#pragma unroll
    for (int offset = 8; offset > 0; offset /= 2) {
      sums.difference += __shfl_xor_sync(all_lanes, sums.difference, offset);
      sums.kept += __shfl_xor_sync(all_lanes, sums.kept, offset);
      sums.inner += __shfl_xor_sync(all_lanes, sums.inner, offset);
    }
    if (x == 0 && row < rows) partial[row * gridDim.x + blockIdx.x] = sums;
  }
}

__global__ void add_partials(const LayerSums* partial, std::int64_t rows, int pieces, LayerSums* out) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (row >= rows) return;
  LayerSums sums{};
  for (int p = 0; p < pieces; ++p) {
    const LayerSums part = partial[row * pieces + p];
    sums.difference += part.difference;
    sums.kept += part.kept;
    sums.inner += part.inner;
  }
  out[row] = sums;
}

__global__ void concatenated_sums(const float* difference, std::int64_t width, const float* before, std::int64_t steps,
                                  LayerSums* out) {
  __shared__ double scratch[warp_size + 1];
  const std::int64_t row = blockIdx.x;
  LayerSums sums{};
  for (std::int64_t i = threadIdx.x; i < width; i += threads) {
    const double delta = difference[row * width + i], o = before[row % steps * width + i], after = o + delta;
    sums.difference += delta * delta;
    sums.kept += after * after;
    sums.inner += o * after;
  }
  sums.difference = block_sum(sums.difference, scratch);
  sums.kept = block_sum(sums.kept, scratch);
  sums.inner = block_sum(sums.inner, scratch);
  if (threadIdx.x == 0) out[row] = sums;
}

__global__ void squared_norms(const float* vectors, std::int64_t width, double* squared) {
  __shared__ double scratch[warp_size + 1];
  const std::int64_t row = blockIdx.x;
  double total = 0;
  for (std::int64_t i = threadIdx.x; i < width; i += threads) {
    const double x = vectors[row * width + i];
    total += x * x;
  }
  total = block_sum(total, scratch);
  if (threadIdx.x == 0) squared[row] = total;
}

__global__ void place_outputs(const float* output, EvaluationBlock block, float* outputs) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= static_cast<std::int64_t>(block.kv_heads) * block.rows() * block.dim) return;
  const auto c = static_cast<int>(i % block.dim);
  const auto row = static_cast<int>(i / block.dim % block.rows());
  const auto kv_head = static_cast<int>(i / block.dim / block.rows());
  outputs[(static_cast<std::int64_t>(row % block.steps) * block.num_query_heads + block.query_head(kv_head, row)) *
              block.dim +
          c] = output[i];
}

}  // namespace

void launch_place_outputs(const float* output, const EvaluationBlock& block, float* outputs, cudaStream_t stream) {
  const std::int64_t count = static_cast<std::int64_t>(block.kv_heads) * block.rows() * block.dim;
  if (count == 0) return;
  place_outputs<<<blocks_for(count, threads), threads, 0, stream>>>(output, block, outputs);
  check_launch("placing outputs of heads");
}

void launch_project(const float* outputs, std::int64_t steps, const void* projection, ElementType type, std::int64_t hidden,
                    std::int64_t inner, float* before, cudaStream_t stream) {
  if (steps == 0) return;
  const dim3 grid(blocks_for(hidden, tile), blocks_for(steps, tile));
  with_elements(type, projection, [&](const auto* weights) {
    project<<<grid, threads, 0, stream>>>(outputs, steps, weights, hidden, inner, before);
  });
  check_launch("the output projection");
}

std::int64_t layer_partial_count(std::int64_t rows, std::int64_t hidden) { return rows * ((hidden + tile - 1) / tile); }

void launch_layer_sums(const float* difference, std::int64_t rows, const void* projection, ElementType type,
                       std::int64_t hidden, std::int64_t inner, const float* before, std::int64_t steps, LayerSums* partial,
                       LayerSums* sums, cudaStream_t stream) {
  if (rows == 0) return;
  const dim3 grid(blocks_for(hidden, tile), blocks_for(rows, tile));
  with_elements(type, projection, [&](const auto* weights) {
    layer_partials<<<grid, threads, 0, stream>>>(difference, rows, weights, hidden, inner, before, steps, partial);
  });
  check_launch("the output projection of differences");
  launch_add_partials(partial, rows, static_cast<int>(grid.x), sums, stream);
}

void launch_add_partials(const LayerSums* partial, std::int64_t rows, int pieces, LayerSums* sums, cudaStream_t stream) {
  if (rows == 0) return;
  add_partials<<<blocks_for(rows, threads), threads, 0, stream>>>(partial, rows, pieces, sums);
  check_launch("norms of projected differences");
}

void launch_concatenated_sums(const float* difference, std::int64_t rows, std::int64_t width, const float* before,
                              std::int64_t steps, LayerSums* sums, cudaStream_t stream) {
  if (rows == 0) return;
  concatenated_sums<<<static_cast<unsigned>(rows), threads, 0, stream>>>(difference, width, before, steps, sums);
  check_launch("norms of differences");
}

void launch_squared_norms(const float* vectors, std::int64_t rows, std::int64_t width, double* squared,
                          cudaStream_t stream) {
  if (rows == 0) return;
  squared_norms<<<static_cast<unsigned>(rows), threads, 0, stream>>>(vectors, width, squared);
  check_launch("norms of outputs");
}

}  // namespace kvreplay::cuda
