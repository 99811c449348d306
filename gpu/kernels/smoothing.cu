#include "gpu/kernels/smoothing.h"

#include "gpu/device.h"
#include "gpu/kernels/elements.cuh"

namespace kvreplay::cuda {
namespace {

constexpr int threads = 256;

__device__ std::int64_t thread_index() { return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

__device__ float larger(float a, float b) { return a > b || a != a ? a : b; }

__global__ void reduce_group(const float* scores, std::int64_t heads, std::int64_t rest, int group, Reduction how,
                             float* out) {
  const std::int64_t i = thread_index();
  if (i >= heads * rest) return;
  const float* first = scores + i / rest * group * rest + i % rest;
  double total = first[0];
  float largest = first[0];
  for (int g = 1; g < group; ++g) {
    total += first[g * rest];
    largest = larger(first[g * rest], largest);
  }
  out[i] = how == Reduction::max ? largest : static_cast<float>(how == Reduction::mean ? total / group : total);
}

template <class Element>
__global__ void norms(const Element* rows, std::int64_t head_stride, std::int64_t heads, std::int64_t columns, int dim,
                      float* out) {
  const std::int64_t i = thread_index() / warp_size;
  if (i >= heads * columns) return;
  const Element* row = rows + i / columns * head_stride + i % columns * dim;
  double squared = 0;
  for (int k = static_cast<int>(threadIdx.x) % warp_size; k < dim; k += warp_size) {
    const double x = to_float(row[k]);
    squared += x * x;
  }
  squared = warp_sum(squared);
  if (threadIdx.x % warp_size == 0) out[i] = static_cast<float>(sqrt(squared));
}

__global__ void multiply(const float* scores, const float* factors, std::int64_t heads, std::int64_t columns,
                         std::int64_t group, double factor, float* out) {
  const std::int64_t i = thread_index();
  if (i >= heads * columns) return;
  out[i] = static_cast<float>(factor * scores[i] * factors[i / columns / group * columns + i % columns]);
}

// float(total / k). The product with 1 / k lies within two units of float64 of the quotient, so it rounds to the same
// float32 unless it lies that near to the middle between two of them: only there is it divided, which takes many times as
// long.
__device__ float rounded_quotient(double total, int k, double reciprocal) {
  const double product = total * reciprocal;
  const auto low = static_cast<int>(__double_as_longlong(product) & 0x1fffffff);
  const bool normal = fabs(product) > 2.4e-38 && fabs(product) < 3.3e38;
  return normal && abs(low - 0x10000000) > 8 ? static_cast<float>(product) : static_cast<float>(total / k);
}

__global__ void average_pool(const float* scores, std::int64_t stride, std::int64_t columns, PoolWindows windows,
                             Padding padding, float* out) {
  const std::int64_t i = thread_index(), h = blockIdx.y;
  if (i >= columns) return;
  const float* in = scores + h * stride;
  const int k = windows.kernel[h];
  const std::int64_t left = k / 2 - windows.shift[h];
  double total = 0;
  if (i - left >= 0 && i - left + k <= columns) {
    in += i - left;
    for (int u = 0; u < k; ++u) total += in[u];
  } else {
    for (int u = 0; u < k; ++u) {
      const std::int64_t at = i - left + u;
      if (padding == Padding::replicate)
        total += in[at < 0 ? 0 : at >= columns ? columns - 1 : at];
      else if (at >= 0 && at < columns)
        total += in[at];
    }
  }
  out[h * columns + i] = rounded_quotient(total, k, windows.reciprocal[h]);
}

__global__ void max_pool(const float* scores, std::int64_t stride, std::int64_t columns, int kernel, float* out) {
  const std::int64_t i = thread_index(), h = blockIdx.y;
  if (i >= columns) return;
  const float* in = scores + h * stride;
  const std::int64_t begin = i - kernel / 2 > 0 ? i - kernel / 2 : 0;
  const std::int64_t end = i + kernel / 2 < columns - 1 ? i + kernel / 2 : columns - 1;
  float largest = in[i];
  for (std::int64_t at = begin; at <= end; ++at) largest = larger(in[at], largest);
  out[h * columns + i] = largest;
}

template <class Element>
__global__ void find_not_finite(const Element* elements, std::int64_t count, unsigned long long* first) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = thread_index(); i < count; i += stride)
    if (!isfinite(to_float(elements[i]))) {
      atomicMin(first, static_cast<unsigned long long>(i));
      return;
    }
}

}  // namespace

void launch_reduce_group(const float* scores, std::int64_t heads, std::int64_t rest, int group, Reduction how, float* out,
                         cudaStream_t stream) {
  if (heads * rest == 0) return;
  reduce_group<<<blocks_for(heads * rest, threads), threads, 0, stream>>>(scores, heads, rest, group, how, out);
  check_launch("reduction over a group of heads");
}

void launch_norms(const void* rows, ElementType type, std::int64_t head_stride, std::int64_t heads, std::int64_t columns,
                  int dim, float* out, cudaStream_t stream) {
  if (heads * columns == 0) return;
  with_elements(type, rows, [&](const auto* elements) {
    norms<<<blocks_for(heads * columns, threads / warp_size), threads, 0, stream>>>(elements, head_stride, heads, columns,
                                                                                    dim, out);
  });
  check_launch("norms of rows");
}

void launch_multiply(const float* scores, const float* factors, std::int64_t heads, std::int64_t columns, std::int64_t group,
                     double factor, float* out, cudaStream_t stream) {
  if (heads * columns == 0) return;
  multiply<<<blocks_for(heads * columns, threads), threads, 0, stream>>>(scores, factors, heads, columns, group, factor,
                                                                         out);
  check_launch("product of scores");
}

void launch_average_pool(const float* scores, std::int64_t heads, std::int64_t columns, const PoolWindows& given,
                         Padding padding, float* out, cudaStream_t stream, std::int64_t stride) {
  if (heads * columns == 0) return;
  PoolWindows windows = given;
  for (std::int64_t h = 0; h < heads; ++h) windows.reciprocal[h] = 1.0 / windows.kernel[h];
  average_pool<<<dim3(blocks_for(columns, threads), static_cast<unsigned>(heads)), threads, 0, stream>>>(
      scores, stride == 0 ? columns : stride, columns, windows, padding, out);
  check_launch("average pooling");
}

void launch_max_pool(const float* scores, std::int64_t heads, std::int64_t columns, int kernel, float* out,
                     cudaStream_t stream, std::int64_t stride) {
  if (heads * columns == 0) return;
  max_pool<<<dim3(blocks_for(columns, threads), static_cast<unsigned>(heads)), threads, 0, stream>>>(
      scores, stride == 0 ? columns : stride, columns, kernel, out);
  check_launch("max pooling");
}

void launch_find_not_finite(const void* elements, ElementType type, std::int64_t count, unsigned long long* first,
                            cudaStream_t stream) {
  if (count == 0) return;
  const std::int64_t wanted = (count + threads - 1) / threads;
  const auto blocks = static_cast<unsigned>(wanted < 4096 ? wanted : 4096);
  with_elements(type, elements,
                [&](const auto* data) { find_not_finite<<<blocks, threads, 0, stream>>>(data, count, first); });
  check_launch("the search for NaN and infinities");
}

}  // namespace kvreplay::cuda
