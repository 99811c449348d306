#include "gpu/kernels/removal_fused.h"

#include <algorithm>

#include "gpu/device.h"
#include "gpu/kernels/elements.cuh"
#include "gpu/kernels/tensor_core.cuh"

namespace kvreplay::cuda {
namespace {

// ---- rounding ----------------------------------------------------------------------------------------------------------

// One block a head.
__global__ void round_factor(const float* factor, int count, __half* rounded, float* unit) {
  __shared__ float largest[33];
  const float* from = factor + static_cast<std::int64_t>(blockIdx.x) * count;
  float top = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) top = fmaxf(top, fabsf(from[i]));
  for (int offset = warp_size / 2; offset > 0; offset /= 2) top = fmaxf(top, __shfl_xor_sync(all_lanes, top, offset));
  if (threadIdx.x % warp_size == 0) largest[threadIdx.x / warp_size] = top;
  __syncthreads();
  for (int w = 0; w < static_cast<int>(blockDim.x) / warp_size; ++w) top = fmaxf(top, largest[w]);
  const int exponent = top > 0 ? 10 - ilogbf(top) : 0;
  const float scale = ldexpf(1.0F, max(-100, min(100, exponent)));
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
    rounded[static_cast<std::int64_t>(blockIdx.x) * count + i] = __float2half_rn(from[i] * scale);
  if (threadIdx.x == 0) unit[blockIdx.x] = 1 / scale;
}

template <class Element>
__global__ void largest_magnitude(const Element* elements, std::int64_t count, unsigned* largest) {
  float top = 0;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride)
    top = fmaxf(top, fabsf(to_float(elements[i])));
  for (int offset = warp_size / 2; offset > 0; offset /= 2) top = fmaxf(top, __shfl_xor_sync(all_lanes, top, offset));
  if (threadIdx.x % warp_size == 0) atomicMax(largest, __float_as_uint(top));
}

// ---- Σ a v -------------------------------------------------------------------------------------------------------------

constexpr int keys_of_block = 1024, mean_threads = 256, heads_at_once = 4;

// A thread has 8 dimensions and every (8 · 256 / d)-th key, for up to four heads. Bound by reading the values.
template <class Element, int dim>
__global__ void __launch_bounds__(mean_threads)
    mean_output(FusedRemoval job, const float* mean, std::int64_t mean_stride, std::int64_t columns, float* partial) {
  constexpr int lanes = dim / 8, key_lanes = mean_threads / lanes;
  __shared__ float weight[heads_at_once][keys_of_block];
  __shared__ float sums[mean_threads / warp_size][heads_at_once][dim];
  const int kv_head = static_cast<int>(blockIdx.y), first_head = static_cast<int>(blockIdx.z) * heads_at_once;
  const int heads = min(heads_at_once, job.group - first_head);
  const std::int64_t head = static_cast<std::int64_t>(kv_head) * job.group + first_head;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * keys_of_block;
  const int count = static_cast<int>(min(static_cast<std::int64_t>(keys_of_block), columns - first));
  for (int i = static_cast<int>(threadIdx.x); i < heads_at_once * keys_of_block; i += mean_threads) {
    const int h = i / keys_of_block, c = i % keys_of_block;
    weight[h][c] = h < heads && c < count ? mean[(head + h) * mean_stride + first + c] : 0.0F;
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const auto* value = static_cast<const Element*>(job.value) + kv_head * job.head_stride + first * dim + lane * 8;
  float sum[heads_at_once][8] = {};
#pragma unroll 4
  for (int c = static_cast<int>(threadIdx.x) / lanes; c < count; c += key_lanes) {
    const uint4 raw = *reinterpret_cast<const uint4*>(value + static_cast<std::int64_t>(c) * dim);
    const auto* v = reinterpret_cast<const Element*>(&raw);
#pragma unroll
    for (int h = 0; h < heads_at_once; ++h)
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[h][i] = fmaf(weight[h][c], to_float(v[i]), sum[h][i]);
  }
#pragma unroll
  for (int h = 0; h < heads_at_once; ++h)
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      for (int offset = lanes; offset < warp_size; offset *= 2) sum[h][i] += __shfl_xor_sync(all_lanes, sum[h][i], offset);
      if (static_cast<int>(threadIdx.x) % warp_size < lanes) sums[threadIdx.x / warp_size][h][lane * 8 + i] = sum[h][i];
    }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < heads * dim; i += mean_threads) {
    float total = 0;
    for (int w = 0; w < mean_threads / warp_size; ++w) total += sums[w][i / dim][i % dim];
    partial[(static_cast<std::int64_t>(blockIdx.x) * job.kv_heads * job.group + head + i / dim) * dim + i % dim] = total;
  }
}

// One block a head.
__global__ void finish_center(FusedRemoval job, const float* partial, std::int64_t pieces, float* output, float* center) {
  extern __shared__ float mean[];
  const std::int64_t head = blockIdx.x, heads = static_cast<std::int64_t>(job.kv_heads) * job.group;
  for (int i = static_cast<int>(threadIdx.x); i < job.dim; i += static_cast<int>(blockDim.x)) {
    double total = 0;
    for (std::int64_t piece = 0; piece < pieces; ++piece) total += partial[(piece * heads + head) * job.dim + i];
    mean[i] = static_cast<float>(total);
    output[head * job.dim + i] = mean[i];
  }
  __syncthreads();
  const auto* factor = static_cast<const __half*>(job.factor) + head * job.dim * job.dim;
  for (int i = static_cast<int>(threadIdx.x); i < job.dim; i += static_cast<int>(blockDim.x)) {
    float total = 0;
    for (int k = 0; k < job.dim; ++k) total = fmaf(__half2float(factor[i * job.dim + k]), mean[k] * job.value_scale, total);
    center[head * job.dim + i] = total;
  }
}

// ---- distances ---------------------------------------------------------------------------------------------------------

constexpr int keys_of_tile = 64, stages = 3, quarters = 4;

__device__ unsigned to_half_pair(unsigned bfloat_pair, float scale) {
  const float low = __uint_as_float(bfloat_pair << 16) * scale, high = __uint_as_float(bfloat_pair & 0xffff0000U) * scale;
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}

// A block streams the values of one KV head, 64 at a time, past the factors of up to four query heads. Each warp keeps a
// quarter of one factor's rows in registers; warps of one scheduler have different quarters, since the upper triangle
// leaves them unequal work.
template <class Element, int dim, int heads>
__global__ void __launch_bounds__(heads* quarters* warp_size, heads == 4 ? 1 : 2)
    fused_removal_error(FusedRemoval job, const float* center, const float* odds, float tau, std::int64_t tiles,
                        std::int64_t tiles_each, float* error) {
  constexpr int threads = heads * quarters * warp_size, rows = dim / quarters, depth = dim / 16,
                stride = PaddedTile<dim>::stride;
  using Stream = RowStream<Element, dim, keys_of_tile, stages, threads>;
  extern __shared__ __align__(16) unsigned char bytes[];
  auto* shared = reinterpret_cast<Element*>(bytes);
  auto* squared = reinterpret_cast<float*>(bytes + Stream::bytes);  // [2][heads][quarters][64]

  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  const int local = warp / quarters, quarter = (warp + local) % quarters;
  const int head_blocks = (job.group + heads - 1) / heads;
  const int kv_head = static_cast<int>(blockIdx.y) / head_blocks,
            first_head = static_cast<int>(blockIdx.y) % head_blocks * heads;
  const bool active = first_head + local < job.group;
  const std::int64_t block_head = static_cast<std::int64_t>(kv_head) * job.group + first_head;
  const std::int64_t head = active ? block_head + local : block_head;

  unsigned factor[rows / 8][depth][2];
  float offset[rows / 8][2];
  const auto* r = static_cast<const __half*>(job.factor) + (head * dim + quarter * rows) * dim;
#pragma unroll
  for (int n = 0; n < rows / 8; ++n) {
#pragma unroll
    for (int k = 0; k < depth; ++k)
#pragma unroll
      for (int part = 0; part < 2; ++part)
        factor[n][k][part] =
            *reinterpret_cast<const unsigned*>(r + (n * 8 + lane / 4) * dim + k * 16 + part * 8 + lane % 4 * 2);
#pragma unroll
    for (int i = 0; i < 2; ++i) offset[n][i] = center[head * dim + quarter * rows + n * 8 + lane % 4 * 2 + i];
  }
  const int first_depth = job.triangular ? quarter * rows / 16 : 0;

  const std::int64_t tile = static_cast<std::int64_t>(blockIdx.x) * tiles_each;
  const std::int64_t tile_end = tile + tiles_each < tiles ? tile + tiles_each : tiles;
  const auto* value = static_cast<const Element*>(job.value) + kv_head * job.head_stride;
  int buffer = 0;
  Stream::run(value, job.columns, tile, tile_end, shared, [&](const Element* rows_of_tile, std::int64_t first) {
    float* sums = squared + buffer * heads * quarters * keys_of_tile;
    const Element* row = rows_of_tile + (lane % 16) * stride + lane / 16 * 8;
#pragma unroll
    for (int pair = 0; pair < keys_of_tile / 32; ++pair) {
      float x[2][rows / 8][4] = {};
#pragma unroll
      for (int k = 0; k < depth; ++k) {
        if (k < first_depth) continue;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          unsigned a[4];
          load_matrices(a, row + (pair * 32 + half * 16) * stride + k * 16);
          if constexpr (!std::is_same_v<Element, __half>) {
#pragma unroll
            for (int i = 0; i < 4; ++i) a[i] = to_half_pair(a[i], job.value_scale);
          }
#pragma unroll
          for (int n = 0; n < rows / 8; ++n) multiply_add<__half>(x[half][n], a, factor[n][k][0], factor[n][k][1]);
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int low = 0; low < 2; ++low) {
          float sum = 0;
#pragma unroll
          for (int n = 0; n < rows / 8; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              const float difference = x[half][n][low * 2 + i] - offset[n][i];
              sum = fmaf(difference, difference, sum);
            }
          sum += __shfl_xor_sync(all_lanes, sum, 1);
          sum += __shfl_xor_sync(all_lanes, sum, 2);
          if (lane % 4 == 0)
            sums[(local * quarters + quarter) * keys_of_tile + pair * 32 + half * 16 + low * 8 + lane / 4] = sum;
        }
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < heads * keys_of_tile; i += threads) {
      const int h = i / keys_of_tile, c = i % keys_of_tile;
      if (first_head + h >= job.group || first + c >= job.columns) continue;
      float total = 0;
      for (int q = 0; q < quarters; ++q) total += sums[(h * quarters + q) * keys_of_tile + c];
      float norm = sqrtf(total) * job.factor_unit[block_head + h] / job.value_scale;
      if (tau != 1) norm = powf(norm, tau);
      const std::int64_t at = (block_head + h) * job.columns + first + c;
      error[at] = norm == 0 ? 0.0F : odds[at] * norm;
    }
    buffer ^= 1;
  });
}

template <class Body>
void dispatch(const FusedRemoval& job, Body&& body) {
  const auto with_dim = [&](auto element) {
    if (job.dim == 64)
      body(element, std::integral_constant<int, 64>{});
    else
      body(element, std::integral_constant<int, 128>{});
  };
  if (job.type == ElementType::float16)
    with_dim(__half{});
  else
    with_dim(__nv_bfloat16{});
}

template <class Element, int dim, int heads>
void launch_distances(const FusedRemoval& job, const float* center, const float* odds, float tau, float* error,
                      int multiprocessors, cudaStream_t stream) {
  constexpr int threads = heads * quarters * warp_size;
  constexpr int bytes = RowStream<Element, dim, keys_of_tile, stages, threads>::bytes +
                        2 * heads * quarters * keys_of_tile * static_cast<int>(sizeof(float));
  auto kernel = fused_removal_error<Element, dim, heads>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "asking for shared memory");
  const std::int64_t tiles = (job.columns + keys_of_tile - 1) / keys_of_tile;
  const std::int64_t pairs = static_cast<std::int64_t>(job.kv_heads) * ((job.group + heads - 1) / heads);
  const std::int64_t wanted =
      std::max<std::int64_t>(1, static_cast<std::int64_t>(multiprocessors) * (heads == 4 ? 1 : 2) / pairs);
  const std::int64_t each = std::max<std::int64_t>(1, (tiles + wanted - 1) / wanted);
  const dim3 grid(static_cast<unsigned>((tiles + each - 1) / each), static_cast<unsigned>(pairs));
  kernel<<<grid, threads, bytes, stream>>>(job, center, odds, tau, tiles, each, error);
}

}  // namespace

bool fused_removal_supported(ElementType type, int dim) { return type != ElementType::float32 && (dim == 64 || dim == 128); }

void launch_round_factor(const float* factor, std::int64_t heads, int dim, void* rounded, float* unit, cudaStream_t stream) {
  round_factor<<<static_cast<unsigned>(heads), 256, 0, stream>>>(factor, dim * dim, static_cast<__half*>(rounded), unit);
  check_launch("rounding the factor of the Gram matrix");
}

void launch_largest_magnitude(const void* elements, ElementType type, std::int64_t count, unsigned* largest,
                              cudaStream_t stream) {
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>(2048, (count + 255) / 256));
  with_elements(type, elements,
                [&](const auto* data) { largest_magnitude<<<blocks, 256, 0, stream>>>(data, count, largest); });
  check_launch("the search for the largest value");
}

std::int64_t mean_output_partial_count(const FusedRemoval& removal, std::int64_t columns) {
  return (columns + keys_of_block - 1) / keys_of_block * removal.kv_heads * removal.group * removal.dim;
}

void launch_mean_center(const FusedRemoval& removal, const float* mean, std::int64_t mean_stride, std::int64_t columns,
                        float* partial, float* output, float* center, cudaStream_t stream) {
  const std::int64_t pieces = (columns + keys_of_block - 1) / keys_of_block;
  const dim3 grid(static_cast<unsigned>(pieces), static_cast<unsigned>(removal.kv_heads),
                  blocks_for(removal.group, heads_at_once));
  if (pieces > 0)
    dispatch(removal, [&](auto element, auto dim) {
      mean_output<decltype(element), dim.value>
          <<<grid, mean_threads, 0, stream>>>(removal, mean, mean_stride, columns, partial);
    });
  check_launch("outputs of averaged attention");
  finish_center<<<static_cast<unsigned>(removal.kv_heads * removal.group), 128,
                  static_cast<std::size_t>(removal.dim) * sizeof(float), stream>>>(removal, partial, pieces, output, center);
  check_launch("centers of averaged attention");
}

void launch_fused_removal_error(const FusedRemoval& removal, const float* center, const float* odds, float tau, float* error,
                                int multiprocessors, cudaStream_t stream) {
  if (removal.columns == 0) return;
  dispatch(removal, [&](auto element, auto dim) {
    using Element = decltype(element);
    if (removal.group == 1)
      launch_distances<Element, dim.value, 1>(removal, center, odds, tau, error, multiprocessors, stream);
    else if (removal.group == 2)
      launch_distances<Element, dim.value, 2>(removal, center, odds, tau, error, multiprocessors, stream);
    else
      launch_distances<Element, dim.value, 4>(removal, center, odds, tau, error, multiprocessors, stream);
  });
  check_launch("fused removal errors");
}

}  // namespace kvreplay::cuda
