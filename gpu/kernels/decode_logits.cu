#include "gpu/kernels/decode_logits.h"

#include <math_constants.h>

#include "gpu/device.h"
#include "gpu/kernels/elements.cuh"

namespace kvreplay::cuda {
namespace {

constexpr int tile = 64, depth = 16, threads = 256, per_thread = 4;

template <class Element>
__global__ void gather_queries(const Element* queries, std::int64_t recorded, const std::int32_t* query_row, int first_head,
                               int heads, int steps, int dim, float* out) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (index >= static_cast<std::int64_t>(heads) * steps * dim) return;
  const std::int64_t row = index / dim, i = index % dim;
  const std::int64_t head = first_head + row / steps;
  const std::int32_t source = query_row[row % steps];
  out[index] = source < 0 ? 0.0F : to_float(queries[(head * recorded + source) * dim + i]);
}

// A 64 × 64 tile of logits for each block, 4 × 4 for each thread. Bound by the float32 rate; the keys are read once for
// every 64 rows.
template <class Element>
__global__ void decode_logits(const float* query, const Element* key, const std::int32_t* query_row, EvaluationBlock block,
                              float scale, float cap, float* logits) {
  __shared__ float q[depth][tile + 1], k[depth][tile + 1];
  const int first_row = static_cast<int>(blockIdx.y) * tile, first_column = static_cast<int>(blockIdx.x) * tile;
  const int x = static_cast<int>(threadIdx.x) % 16, y = static_cast<int>(threadIdx.x) / 16;
  float sum[per_thread][per_thread] = {};
  for (int begin = 0; begin < block.dim; begin += depth) {
    for (int i = static_cast<int>(threadIdx.x); i < tile * depth; i += threads) {
      const int r = i / depth, c = i % depth;
      const bool inside = begin + c < block.dim;
      q[c][r] = inside && first_row + r < block.rows()
                    ? query[static_cast<std::int64_t>(first_row + r) * block.dim + begin + c]
                    : 0.0F;
      const int column = first_column + r;
      k[c][r] = inside && column < block.columns
                    ? to_float(key[static_cast<std::int64_t>(block.origin + column) * block.dim + begin + c])
                    : 0.0F;
    }
    __syncthreads();
    for (int c = 0; c < depth; ++c) {
      float left[per_thread], right[per_thread];
      for (int i = 0; i < per_thread; ++i) left[i] = q[c][y + 16 * i];
      for (int j = 0; j < per_thread; ++j) right[j] = k[c][x + 16 * j];
      for (int i = 0; i < per_thread; ++i)
        for (int j = 0; j < per_thread; ++j) sum[i][j] = fmaf(left[i], right[j], sum[i][j]);
    }
    __syncthreads();
  }
  for (int i = 0; i < per_thread; ++i) {
    const int row = first_row + y + 16 * i;
    if (row >= block.rows()) continue;
    const int position = block.position(row), low = block.first_visible(position);
    const bool recorded = query_row[row % block.steps] >= 0;
    for (int j = 0; j < per_thread; ++j) {
      const int column = first_column + x + 16 * j, at = block.origin + column;
      if (column >= block.columns) continue;
      float z = scale * sum[i][j];
      if (cap > 0) z = cap * tanhf(z / cap);
      if (at < low || at > position) z = -CUDART_INF_F;
      logits[static_cast<std::int64_t>(row) * block.columns + column] = recorded ? z : CUDART_NAN_F;
    }
  }
}

}  // namespace

void launch_gather_queries(const void* queries, ElementType type, std::int64_t recorded, const std::int32_t* query_row,
                           int first_head, int heads, int steps, int dim, float* out, cudaStream_t stream) {
  const std::int64_t count = static_cast<std::int64_t>(heads) * steps * dim;
  if (count == 0) return;
  with_elements(type, queries, [&](const auto* rows) {
    gather_queries<<<blocks_for(count, threads), threads, 0, stream>>>(rows, recorded, query_row, first_head, heads, steps,
                                                                       dim, out);
  });
  check_launch("the queries of decode steps");
}

void launch_decode_logits(const float* query, const void* key, ElementType key_type, const std::int32_t* query_row,
                          const EvaluationBlock& block, float scale, float cap, float* logits, cudaStream_t stream) {
  if (block.rows() == 0 || block.columns == 0) return;
  const dim3 grid(blocks_for(block.columns, tile), blocks_for(block.rows(), tile));
  with_elements(key_type, key, [&](const auto* keys) {
    decode_logits<<<grid, threads, 0, stream>>>(query, keys, query_row, block, scale, cap, logits);
  });
  check_launch("the logits of decode steps");
}

}  // namespace kvreplay::cuda
