#include "gpu/kernels/window_rows.h"

#include "gpu/device.h"
#include "gpu/kernels/elements.cuh"

namespace kvreplay::cuda {
namespace {

constexpr int threads = 512;
constexpr std::int64_t keys_of_piece = 2048;

struct Visible {
  std::int64_t begin, end;  // columns
};

__device__ Visible visible_columns(const RowShape& shape, std::int64_t row) {
  const std::int64_t position = shape.first_query + row % shape.window;
  std::int64_t first = 0;
  if (shape.sliding_window > 0 && position - shape.sliding_window + 1 > 0) first = position - shape.sliding_window + 1;
  return {first > shape.low ? first - shape.low : 0, position + 1 - shape.low};
}

// The largest value of the block's threads and the lowest index that has it.
__device__ void block_argmax(float& value, std::int64_t& index, float* values, std::int64_t* indices) {
  values[threadIdx.x] = value;
  indices[threadIdx.x] = index;
  __syncthreads();
  for (int half = static_cast<int>(blockDim.x) / 2; half > 0; half /= 2) {
    const int me = static_cast<int>(threadIdx.x), other = me + half;
    if (me < half && (values[other] > values[me] || (values[other] == values[me] && indices[other] < indices[me]))) {
      values[me] = values[other];
      indices[me] = indices[other];
    }
    __syncthreads();
  }
  value = values[0];
  index = indices[0];
}

__global__ void softmax_rows(float* all, RowShape shape, float* dominant) {
  __shared__ float values[threads];
  __shared__ std::int64_t indices[threads];
  __shared__ double sums[33];
  const std::int64_t r = blockIdx.x;
  float* row = all + r * shape.columns;
  const Visible seen = visible_columns(shape, r);
  float top = -INFINITY;
  std::int64_t at = INT64_MAX;
  for (std::int64_t c = seen.begin + threadIdx.x; c < seen.end; c += threads)
    if (row[c] > top || at == INT64_MAX) {
      top = row[c];
      at = c;
    }
  block_argmax(top, at, values, indices);
  // Without the largest: not a subtraction, so exact when the largest has nearly all.
  double others = 0;
  for (std::int64_t c = seen.begin + threadIdx.x; c < seen.end; c += threads) {
    const float e = expf(row[c] - top);
    row[c] = e;
    if (c != at) others += e;
  }
  others = block_sum(others, sums);
  const double exact_weight = 1 / (1 + others);
  const auto weight = static_cast<float>(exact_weight);
  for (std::int64_t c = threadIdx.x; c < shape.columns; c += threads)
    row[c] = c < seen.begin || c >= seen.end ? 0.0F : c == at ? weight : row[c] * weight;
  if (threadIdx.x == 0) {
    const bool dominates = exact_weight > 0.5 && at >= shape.cut;
    dominant[2 * r] = dominates ? static_cast<float>(at - shape.cut) : -1.0F;
    dominant[2 * r + 1] = dominates ? static_cast<float>(others / (1 + others)) : 1.0F;
  }
}

// One thread a dimension, one block a row and piece of keys.
template <class Element>
__global__ void row_outputs(const float* all, RowShape shape, const float* dominant, const Element* value,
                            std::int64_t head_stride, std::int64_t rows_per_kv_head, int dim, double* partial) {
  const std::int64_t r = blockIdx.x, piece = blockIdx.y;
  const std::int64_t begin = piece * keys_of_piece;
  const std::int64_t end = begin + keys_of_piece < shape.columns ? begin + keys_of_piece : shape.columns;
  const std::int64_t skipped = dominant[2 * r] < 0 ? -1 : static_cast<std::int64_t>(dominant[2 * r]) + shape.cut;
  const Element* values = value + r / rows_per_kv_head * head_stride;
  const float* row = all + r * shape.columns;
  for (int i = static_cast<int>(threadIdx.x); i < dim; i += static_cast<int>(blockDim.x)) {
    double total = 0;
    for (std::int64_t c = begin; c < end; ++c)
      if (c != skipped) total += static_cast<double>(row[c]) * to_float(values[c * dim + i]);
    partial[(piece * shape.rows + r) * dim + i] = total;
  }
}

template <class Element>
__global__ void finish_outputs(const float* all, RowShape shape, const float* dominant, const Element* value,
                               std::int64_t head_stride, std::int64_t rows_per_kv_head, int dim, std::int64_t pieces,
                               const double* partial, float* output, float* rest) {
  const std::int64_t r = blockIdx.x;
  const std::int64_t column = dominant[2 * r] < 0 ? -1 : static_cast<std::int64_t>(dominant[2 * r]) + shape.cut;
  const Element* values = value + r / rows_per_kv_head * head_stride;
  for (int i = static_cast<int>(threadIdx.x); i < dim; i += static_cast<int>(blockDim.x)) {
    double total = 0;
    for (std::int64_t piece = 0; piece < pieces; ++piece) total += partial[(piece * shape.rows + r) * dim + i];
    rest[r * dim + i] = static_cast<float>(total);
    if (column >= 0) total += static_cast<double>(all[r * shape.columns + column]) * to_float(values[column * dim + i]);
    output[r * dim + i] = static_cast<float>(total);
  }
}

__global__ void reduce_rows(const float* rows, int window, std::int64_t columns, const float* weights, float* out) {
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, h = blockIdx.y;
  if (c >= columns) return;
  double total = 0;
  for (int w = 0; w < window; ++w)
    if (weights[w] != 0) total += static_cast<double>(weights[w]) * rows[(h * window + w) * columns + c];
  out[h * columns + c] = static_cast<float>(total);
}

}  // namespace

void launch_softmax_rows(float* rows, const RowShape& shape, float* dominant, cudaStream_t stream) {
  softmax_rows<<<static_cast<unsigned>(shape.rows), threads, 0, stream>>>(rows, shape, dominant);
  check_launch("softmax of the window's rows");
}

std::int64_t output_partial_count(std::int64_t rows, std::int64_t columns, int dim) {
  return (columns + keys_of_piece - 1) / keys_of_piece * rows * dim;
}

void launch_row_outputs(const float* rows, const RowShape& shape, const float* dominant, const void* value, ElementType type,
                        std::int64_t value_head_stride, std::int64_t rows_per_kv_head, int dim, double* partial,
                        float* output, float* rest, cudaStream_t stream) {
  const std::int64_t pieces = (shape.columns + keys_of_piece - 1) / keys_of_piece;
  const dim3 grid(static_cast<unsigned>(shape.rows), static_cast<unsigned>(pieces));
  with_elements(type, value, [&](const auto* v) {
    row_outputs<<<grid, 128, 0, stream>>>(rows, shape, dominant, v, value_head_stride, rows_per_kv_head, dim, partial);
    finish_outputs<<<static_cast<unsigned>(shape.rows), 128, 0, stream>>>(
        rows, shape, dominant, v, value_head_stride, rows_per_kv_head, dim, pieces, partial, output, rest);
  });
  check_launch("outputs of the window's rows");
}

void launch_reduce_rows(const float* rows, std::int64_t heads, int window, std::int64_t columns, const float* weights,
                        float* out, cudaStream_t stream) {
  if (columns == 0) return;
  reduce_rows<<<dim3(blocks_for(columns, 256), static_cast<unsigned>(heads)), 256, 0, stream>>>(rows, window, columns,
                                                                                                weights, out);
  check_launch("sums over the window");
}

}  // namespace kvreplay::cuda
