#include "gpu/kernels/product.h"

#include "gpu/device.h"
#include "gpu/kernels/elements.cuh"

namespace kvreplay::cuda {
namespace {

constexpr int tile = 64, depth = 16, threads = 256, per_thread = 4;

// Loads a tile [64, depth] of a row-major matrix, transposed, zero outside.
template <class Element>
__device__ void load_tile(const Element* matrix, std::int64_t stride, std::int64_t first_row, std::int64_t rows,
                          std::int64_t first_column, std::int64_t columns, float (*shared)[tile + 1]) {
  for (int i = static_cast<int>(threadIdx.x); i < tile * depth; i += threads) {
    const int row = i / depth, column = i % depth;
    const bool inside = first_row + row < rows && first_column + column < columns;
    shared[column][row] = inside ? to_float(matrix[(first_row + row) * stride + first_column + column]) : 0.0F;
  }
}

// A 64 × 64 tile of the result for each block, 4 × 4 for each thread. Bound by the float32 rate (two loads from shared
// memory for 16 multiply-adds).
template <class Left, class Right>
__global__ void product_nt(const Left* left, Matrix l, const Right* right, Matrix r, std::int64_t rows, std::int64_t columns,
                           std::int64_t inner, float factor, float cap, float* out, std::int64_t out_stride,
                           std::int64_t out_batch) {
  __shared__ float a[depth][tile + 1], b[depth][tile + 1];
  const std::int64_t batch = blockIdx.z;
  left += batch / l.batch_group * l.batch_stride;
  right += batch / r.batch_group * r.batch_stride;
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.y) * tile,
                     first_column = static_cast<std::int64_t>(blockIdx.x) * tile;
  const int x = static_cast<int>(threadIdx.x) % 16, y = static_cast<int>(threadIdx.x) / 16;
  float sum[per_thread][per_thread] = {};
  for (std::int64_t k = 0; k < inner; k += depth) {
    load_tile(left, l.stride, first_row, rows, k, inner, a);
    load_tile(right, r.stride, first_column, columns, k, inner, b);
    __syncthreads();
    for (int kk = 0; kk < depth; ++kk) {
      float u[per_thread], v[per_thread];
      for (int i = 0; i < per_thread; ++i) u[i] = a[kk][y + 16 * i];
      for (int j = 0; j < per_thread; ++j) v[j] = b[kk][x + 16 * j];
      for (int i = 0; i < per_thread; ++i)
        for (int j = 0; j < per_thread; ++j) sum[i][j] = fmaf(u[i], v[j], sum[i][j]);
    }
    __syncthreads();
  }
  for (int i = 0; i < per_thread; ++i)
    for (int j = 0; j < per_thread; ++j) {
      const std::int64_t row = first_row + y + 16 * i, column = first_column + x + 16 * j;
      if (row >= rows || column >= columns) continue;
      const float value = factor * sum[i][j];
      out[batch * out_batch + row * out_stride + column] = cap > 0 ? cap * tanhf(value / cap) : value;
    }
}

// A 16 × 16 tile of one head's Gram matrix for each block; sums over the hidden size in float64.
template <class Element>
__global__ void gram_tile(const Element* projection, std::int64_t hidden, std::int64_t stride, int dim, double* gram) {
  constexpr int side = 16, rows = 32;
  __shared__ float a[rows][side + 1], b[rows][side + 1];
  const int x = static_cast<int>(threadIdx.x) % side, y = static_cast<int>(threadIdx.x) / side;
  const int first_i = static_cast<int>(blockIdx.y) * side, first_j = static_cast<int>(blockIdx.x) * side;
  const std::int64_t head = blockIdx.z;
  const Element* block = projection + head * dim;
  double total = 0;
  for (std::int64_t c = 0; c < hidden; c += rows) {
    for (int row = y; row < rows; row += side) {
      const bool inside = c + row < hidden;
      a[row][x] = inside && first_i + x < dim ? to_float(block[(c + row) * stride + first_i + x]) : 0.0F;
      b[row][x] = inside && first_j + x < dim ? to_float(block[(c + row) * stride + first_j + x]) : 0.0F;
    }
    __syncthreads();
    for (int row = 0; row < rows; ++row) total += static_cast<double>(a[row][y]) * b[row][x];
    __syncthreads();
  }
  if (first_i + y < dim && first_j + x < dim) gram[(head * dim + first_i + y) * dim + first_j + x] = total;
}

}  // namespace

void launch_product_nt(const Matrix& left, const Matrix& right, std::int64_t batch, std::int64_t rows, std::int64_t columns,
                       std::int64_t inner, float factor, float cap, float* out, std::int64_t out_stride,
                       std::int64_t out_batch, cudaStream_t stream) {
  if (batch * rows * columns == 0) return;
  const dim3 grid(blocks_for(columns, tile), blocks_for(rows, tile), static_cast<unsigned>(batch));
  with_elements(left.type, left.data, [&](const auto* l) {
    with_elements(right.type, right.data, [&](const auto* r) {
      product_nt<<<grid, threads, 0, stream>>>(l, left, r, right, rows, columns, inner, factor, cap, out, out_stride,
                                               out_batch);
    });
  });
  check_launch("a plain product");
}

void launch_gram(const void* projection, ElementType type, std::int64_t hidden, std::int64_t heads, std::int64_t dim,
                 double* gram, cudaStream_t stream) {
  const dim3 grid(blocks_for(dim, 16), blocks_for(dim, 16), static_cast<unsigned>(heads));
  with_elements(type, projection, [&](const auto* elements) {
    gram_tile<<<grid, 256, 0, stream>>>(elements, hidden, heads * dim, static_cast<int>(dim), gram);
  });
  check_launch("the Gram matrices of the output projection");
}

}  // namespace kvreplay::cuda
