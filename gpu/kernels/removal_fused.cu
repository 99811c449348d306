#include "gpu/kernels/removal_fused.h"

#include <algorithm>

#include "gpu/device.h"
#include "gpu/kernels/elements.cuh"
#include "gpu/kernels/launch.cuh"
#include "gpu/kernels/removal_hopper.h"
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

constexpr int mean_threads = 256, heads_at_once = 4, keys_at_once = 4;
constexpr std::int64_t mean_blocks = 256;  // one wave on 132 multiprocessors with two blocks each
constexpr int most_keys = 4096, fewest_keys = 256;

// Keys of a block: as few as fill the device once; at most 256 of them are summed by one thread at d = 128.
int keys_of_block(const FusedRemoval& removal, std::int64_t columns) {
  const std::int64_t blocks = static_cast<std::int64_t>(removal.kv_heads) * blocks_for(removal.group, heads_at_once);
  const std::int64_t pieces = std::max<std::int64_t>(1, mean_blocks / std::max<std::int64_t>(1, blocks));
  const std::int64_t keys = ((columns + pieces - 1) / pieces + 63) / 64 * 64;
  return static_cast<int>(std::clamp<std::int64_t>(keys, fewest_keys, most_keys));
}

// A thread has 8 dimensions and four keys at a time, every (4 · 256 · 8 / d)-th four, for up to four heads. Bound by reading
// the values: with two steps under way a multiprocessor's 512 threads have 64 KB of values on their way.
template <class Element, int dim, bool Aligned>
__global__ void __launch_bounds__(mean_threads, 2) mean_output(FusedRemoval job, const float* mean, std::int64_t mean_stride,
                                                               std::int64_t columns, int keys, float* partial) {
  constexpr int lanes = dim / 8, key_lanes = mean_threads / lanes, step = key_lanes * keys_at_once;
  __shared__ float sums[mean_threads / warp_size][heads_at_once][dim];
  const int kv_head = static_cast<int>(blockIdx.y), first_head = static_cast<int>(blockIdx.z) * heads_at_once;
  const int heads = min(heads_at_once, job.group - first_head);
  const std::int64_t head = static_cast<std::int64_t>(kv_head) * job.group + first_head;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * keys;
  const int count = static_cast<int>(min(static_cast<std::int64_t>(keys), columns - first));
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const auto* value = static_cast<const Element*>(job.value) + kv_head * job.head_stride + first * dim + lane * 8;
  const float* weights = mean + head * mean_stride + first;
  float sum[heads_at_once][8] = {};
  const auto add = [&](const uint4& raw, const float(&weight)[heads_at_once][keys_at_once], int k) {
    const auto* v = reinterpret_cast<const Element*>(&raw);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float x = to_float(v[i]);
#pragma unroll
      for (int h = 0; h < heads_at_once; ++h) sum[h][i] = fmaf(weight[h][k], x, sum[h][i]);
    }
  };
  struct Step {
    uint4 raw[keys_at_once];
    float weight[heads_at_once][keys_at_once];
  };
  const auto load = [&](Step& to, int c) {
#pragma unroll
    for (int k = 0; k < keys_at_once; ++k)
      to.raw[k] = *reinterpret_cast<const uint4*>(value + static_cast<std::int64_t>(c + k) * dim);
#pragma unroll
    for (int h = 0; h < heads_at_once; ++h) {
      const float* from = weights + (h < heads ? h : 0) * mean_stride + c;
      if constexpr (Aligned) {
        const float4 four = *reinterpret_cast<const float4*>(from);
        to.weight[h][0] = four.x, to.weight[h][1] = four.y, to.weight[h][2] = four.z, to.weight[h][3] = four.w;
      } else {
#pragma unroll
        for (int k = 0; k < keys_at_once; ++k) to.weight[h][k] = from[k];
      }
    }
  };
  const auto add_all = [&](const Step& from) {
#pragma unroll
    for (int k = 0; k < keys_at_once; ++k) add(from.raw[k], from.weight, k);
  };
  const int key_lane = static_cast<int>(threadIdx.x) / lanes, whole = count / keys_at_once * keys_at_once;
  // Without a branch around the loads of the next step, they are asked for before this step's arrive; past the end the last
  // step is read again.
  const int last = whole - keys_at_once;
  Step even, odd;
  int c = key_lane * keys_at_once;
  if (c < whole) load(even, c);
  while (c < whole) {
    load(odd, min(c + step, last));
    add_all(even);
    if ((c += step) >= whole) break;
    load(even, min(c + step, last));
    add_all(odd);
    c += step;
  }
  if (whole + key_lane < count) {
    const int at = whole + key_lane;
    float weight[heads_at_once][keys_at_once];
#pragma unroll
    for (int h = 0; h < heads_at_once; ++h) weight[h][0] = weights[(h < heads ? h : 0) * mean_stride + at];
    add(*reinterpret_cast<const uint4*>(value + static_cast<std::int64_t>(at) * dim), weight, 0);
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

constexpr int center_threads = 512;

// One block a head. Bound by latency: everything is asked for at once.
template <int dim>
__global__ void __launch_bounds__(center_threads)
    finish_center(FusedRemoval job, const float* partial, std::int64_t pieces, float* output, float* center) {
  constexpr int shares = center_threads / dim, rows = dim / (center_threads / warp_size), words = dim / 64;
  __shared__ double parts[shares][dim];
  __shared__ float mean[dim];
  const std::int64_t head = blockIdx.x, heads = static_cast<std::int64_t>(job.kv_heads) * job.group;
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  // A warp has `rows` rows of the factor; they are on their way while the pieces are summed.
  const auto* factor = static_cast<const __half2*>(job.factor) + (head * dim + warp * rows) * (dim / 2) + lane;
  __half2 pairs[rows][words];
#pragma unroll
  for (int r = 0; r < rows; ++r)
#pragma unroll
    for (int k = 0; k < words; ++k) pairs[r][k] = factor[r * (dim / 2) + k * warp_size];
  const int share = static_cast<int>(threadIdx.x) / dim, at = static_cast<int>(threadIdx.x) % dim;
  double total = 0;
#pragma unroll 8
  for (std::int64_t piece = share; piece < pieces; piece += shares) total += partial[(piece * heads + head) * dim + at];
  parts[share][at] = total;
  __syncthreads();
  if (threadIdx.x < dim) {
    for (int s = 1; s < shares; ++s) total += parts[s][at];
    mean[at] = static_cast<float>(total);
    output[head * dim + at] = mean[at];
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    float dot = 0;
#pragma unroll
    for (int k = 0; k < words; ++k) {
      const float2 x = __half22float2(pairs[r][k]);
      const int column = (k * warp_size + lane) * 2;
      dot = fmaf(x.x, mean[column] * job.value_scale, dot);
      dot = fmaf(x.y, mean[column + 1] * job.value_scale, dot);
    }
    dot = warp_sum(dot);
    if (lane == 0) center[head * dim + warp * rows + r] = dot;
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
      error[at] = norm == 0 || odds == nullptr ? norm : odds[at] * norm;
    }
    buffer ^= 1;
  });
}

template <class Element, int dim, int heads>
void launch_distances(const FusedRemoval& job, const float* center, const float* odds, float tau, float* error,
                      int multiprocessors, cudaStream_t stream) {
  constexpr int threads = heads * quarters * warp_size;
  constexpr int bytes = RowStream<Element, dim, keys_of_tile, stages, threads>::bytes +
                        2 * heads * quarters * keys_of_tile * static_cast<int>(sizeof(float));
  auto kernel = fused_removal_error<Element, dim, heads>;
  allow_shared_memory(kernel, bytes);
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
  const int keys = keys_of_block(removal, columns);
  return (columns + keys - 1) / keys * removal.kv_heads * removal.group * removal.dim;
}

void launch_mean_center(const FusedRemoval& removal, const float* mean, std::int64_t mean_stride, std::int64_t columns,
                        float* partial, float* output, float* center, cudaStream_t stream) {
  const int keys = keys_of_block(removal, columns);
  const std::int64_t pieces = (columns + keys - 1) / keys;
  const dim3 grid(static_cast<unsigned>(pieces), static_cast<unsigned>(removal.kv_heads),
                  blocks_for(removal.group, heads_at_once));
  const bool aligned = reinterpret_cast<std::uintptr_t>(mean) % 16 == 0 && mean_stride % 4 == 0;
  with_half_and_dim(removal.type, removal.dim, [&](auto element, auto dim) {
    using Element = decltype(element);
    if (pieces > 0) {
      auto kernel = aligned ? mean_output<Element, dim.value, true> : mean_output<Element, dim.value, false>;
      kernel<<<grid, mean_threads, 0, stream>>>(removal, mean, mean_stride, columns, keys, partial);
      check_launch("outputs of averaged attention");
    }
    finish_center<dim.value><<<static_cast<unsigned>(removal.kv_heads * removal.group), center_threads, 0, stream>>>(
        removal, partial, pieces, output, center);
    check_launch("centers of averaged attention");
  });
}

void launch_fused_removal_error(const FusedRemoval& removal, const float* center, const float* odds, float tau, float* error,
                                int multiprocessors, cudaStream_t stream) {
  if (removal.columns == 0) return;
  if (removal.hopper && hopper::supports(removal))
    return hopper::removal_error(removal, center, odds, tau, error, multiprocessors, stream);
  with_half_dim_and_heads(removal.type, removal.dim, removal.group, [&](auto element, auto dim, auto heads) {
    launch_distances<decltype(element), dim.value, heads.value>(removal, center, odds, tau, error, multiprocessors, stream);
  });
  check_launch("fused removal errors");
}

}  // namespace kvreplay::cuda
