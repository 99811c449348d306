#include "gpu/kernels/removal_error.h"

#include "gpu/device.h"
#include "gpu/kernels/elements.cuh"

namespace kvreplay::cuda {
namespace {

constexpr int threads = 128;
constexpr int rows_at_once = 8;

__device__ float squared_distance(const float* points, std::int64_t columns, std::int64_t column, const float* center,
                                  int rank) {
  float sum = 0;
  for (int i = 0; i < rank; ++i) {
    const float difference = points[i * columns + column] - center[i];
    sum = fmaf(difference, difference, sum);
  }
  return sum;
}

__device__ float norm_of(const float* vector, int count) {
  float sum = 0;
  for (int i = 0; i < count; ++i) sum = fmaf(vector[i], vector[i], sum);
  return sqrtf(sum);
}

__global__ void removal_errors(const float* points, const float* centers, const float* weight, RemovalShape shape,
                               bool normalize, float* error) {
  extern __shared__ float center[];  // [rows_at_once, r]
  __shared__ float scale[rows_at_once];
  const int first = static_cast<int>(blockIdx.y) * rows_at_once;
  const int count = min(rows_at_once, shape.window - first);
  for (int i = static_cast<int>(threadIdx.x); i < count * shape.rank; i += threads)
    center[i] = centers[first * shape.rank + i];
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < count)
    scale[threadIdx.x] = normalize ? 1 / norm_of(center + threadIdx.x * shape.rank, shape.rank) : 1;
  __syncthreads();
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (column >= shape.columns) return;
  float sum[rows_at_once] = {};
  for (int i = 0; i < shape.rank; ++i) {
    const float point = points[i * shape.columns + column];
    for (int w = 0; w < rows_at_once; ++w)
      if (w < count) {
        const float difference = point - center[w * shape.rank + i];
        sum[w] = fmaf(difference, difference, sum[w]);
      }
  }
  for (int w = 0; w < rows_at_once; ++w)
    if (w < count) {
      const std::int64_t at = (first + w) * shape.columns + column;
      const float a = weight[at];
      error[at] = sqrtf(sum[w]) * scale[w] * (a / (1 - a));
    }
}

// One block a row.
template <class Element>
__global__ void dominant_errors(const float* weight, const float* dominant, const float* rest, const Element* value,
                                std::int64_t head_stride, int group, const float* factor, const float* centers,
                                RemovalShape shape, bool normalize, float* error) {
  extern __shared__ float difference[];  // [d]
  __shared__ float sums[33];
  const std::int64_t r = blockIdx.x, head = r / shape.window;
  if (dominant[2 * r] < 0) return;
  const auto column = static_cast<std::int64_t>(dominant[2 * r]);
  const double scale = 1.0 / fmaxf(dominant[2 * r + 1], least_rest);
  const Element* v = value + head / group * head_stride + column * shape.dim;
  for (int i = static_cast<int>(threadIdx.x); i < shape.dim; i += threads)
    difference[i] = static_cast<float>(rest[r * shape.dim + i] * scale - to_float(v[i]));
  __syncthreads();
  float squared = 0, center_squared = 0;
  for (int i = static_cast<int>(threadIdx.x); i < shape.rank; i += threads) {
    float x = 0;
    if (factor == nullptr) {
      x = difference[i];
    } else {
      for (int k = 0; k < shape.dim; ++k) x = fmaf(factor[(head * shape.rank + i) * shape.dim + k], difference[k], x);
    }
    squared = fmaf(x, x, squared);
    const float c = centers[r * shape.rank + i];
    center_squared = fmaf(c, c, center_squared);
  }
  squared = block_sum(squared, sums);
  center_squared = block_sum(center_squared, sums);
  if (threadIdx.x != 0) return;
  const std::int64_t at = r * shape.columns + column;
  error[at] = weight[at] * sqrtf(squared) * (normalize ? 1 / sqrtf(center_squared) : 1.0F);
}

__global__ void removal_error_of_mean(const float* points, const float* center, const float* mean, const float* rows,
                                      const float* dominant, const float* weights, RemovalShape shape, float tau,
                                      float* error) {
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (column >= shape.columns) return;
  float norm = sqrtf(squared_distance(points, shape.columns, column, center, shape.rank));
  if (tau != 1) norm = powf(norm, tau);
  const float a = mean[column];
  float rest = 1 - a;
  if (a > 0.5F) {  // 1 - Σ c a = Σ c (1 - a), each 1 - a exact where a is the row's dominant weight
    double sum = 0;
    for (int w = 0; w < shape.window; ++w) {
      const bool here = dominant[2 * w] >= 0 && static_cast<std::int64_t>(dominant[2 * w]) == column;
      const double one_minus = here ? dominant[2 * w + 1] : 1.0 - rows[w * shape.columns + column];
      sum += static_cast<double>(weights[w]) * one_minus;
    }
    rest = fmaxf(static_cast<float>(sum), least_rest);
  }
  error[column] = norm == 0 ? 0.0F : a / rest * norm;
}

// One block a head and dimension.
template <class Element>
__global__ void mean_output(const float* mean, std::int64_t mean_stride, const Element* value, std::int64_t head_stride,
                            int group, std::int64_t columns, int dim, float* center) {
  __shared__ double sums[33];
  const std::int64_t head = blockIdx.y;
  const int i = static_cast<int>(blockIdx.x);
  const Element* v = value + head / group * head_stride + i;
  double total = 0;
  for (std::int64_t c = threadIdx.x; c < columns; c += blockDim.x)
    total += static_cast<double>(mean[head * mean_stride + c]) * to_float(v[c * dim]);
  total = block_sum(total, sums);
  if (threadIdx.x == 0) center[head * dim + i] = static_cast<float>(total);
}

__global__ void weighted_outputs(const float* output, int window, int dim, const float* weights, float* center) {
  const std::int64_t head = blockIdx.x;
  for (int i = static_cast<int>(threadIdx.x); i < dim; i += static_cast<int>(blockDim.x)) {
    double total = 0;
    for (int w = 0; w < window; ++w) total += static_cast<double>(weights[w]) * output[(head * window + w) * dim + i];
    center[head * dim + i] = static_cast<float>(total);
  }
}

}  // namespace

void launch_removal_errors(const float* points, const float* centers, const float* weight, const RemovalShape& shape,
                           bool normalize, float* error, cudaStream_t stream) {
  if (shape.columns == 0) return;
  const dim3 grid(blocks_for(shape.columns, threads), blocks_for(shape.window, rows_at_once));
  removal_errors<<<grid, threads, rows_at_once* static_cast<std::size_t>(shape.rank) * sizeof(float), stream>>>(
      points, centers, weight, shape, normalize, error);
  check_launch("removal errors");
}

void launch_dominant_errors(const float* weight, const float* dominant, const float* rest, const void* value,
                            ElementType type, std::int64_t value_head_stride, int group, const float* factor,
                            const float* centers, const RemovalShape& shape, std::int64_t heads, bool normalize,
                            float* error, cudaStream_t stream) {
  with_elements(type, value, [&](const auto* v) {
    dominant_errors<<<static_cast<unsigned>(heads * shape.window), threads,
                      static_cast<std::size_t>(shape.dim) * sizeof(float), stream>>>(
        weight, dominant, rest, v, value_head_stride, group, factor, centers, shape, normalize, error);
  });
  check_launch("removal errors of dominant tokens");
}

void launch_removal_error_of_mean(const float* points, const float* center, const float* mean, const float* rows,
                                  const float* dominant, const float* weights, const RemovalShape& shape, float tau,
                                  float* error, cudaStream_t stream) {
  if (shape.columns == 0) return;
  removal_error_of_mean<<<blocks_for(shape.columns, threads), threads, 0, stream>>>(points, center, mean, rows, dominant,
                                                                                    weights, shape, tau, error);
  check_launch("removal errors of averaged attention");
}

void launch_mean_output(const float* mean, std::int64_t mean_stride, const void* value, ElementType type,
                        std::int64_t value_head_stride, int group, std::int64_t heads, std::int64_t columns, int dim,
                        float* center, cudaStream_t stream) {
  with_elements(type, value, [&](const auto* v) {
    mean_output<<<dim3(static_cast<unsigned>(dim), static_cast<unsigned>(heads)), 256, 0, stream>>>(
        mean, mean_stride, v, value_head_stride, group, columns, dim, center);
  });
  check_launch("outputs of averaged attention");
}

void launch_weighted_outputs(const float* output, std::int64_t heads, int window, int dim, const float* weights,
                             float* center, cudaStream_t stream) {
  weighted_outputs<<<static_cast<unsigned>(heads), 128, 0, stream>>>(output, window, dim, weights, center);
  check_launch("averaged outputs");
}

}  // namespace kvreplay::cuda
