#include "gpu/kernels/evaluate_project.h"

#include "gpu/device.h"
#include "gpu/kernels/elements.cuh"
#include "gpu/kernels/launch.cuh"
#include "gpu/kernels/tensor_core.cuh"

namespace kvreplay::cuda {
namespace {

constexpr int tile = layer_tile, depth = 32, threads = 128, stages = 3, split_threads = 512;
constexpr int warp_rows = 64, warp_columns = 64;
constexpr int stride = depth + 8;  // elements: rows 80 bytes apart put the eight of a matrix in different banks
constexpr int part = tile * stride, stage_elements = 3 * part;
constexpr int shared_bytes = stages * stage_elements * 2;
constexpr std::int64_t most_inner = 24576;  // a row in shared memory: 96 KiB

// 2^e that brings `largest` to [2^14, 2^15), where float16 ends at 2^16.
__device__ int exponent_of(float largest) { return largest > 0 ? min(max(14 - ilogbf(largest), -100), 100) : 0; }

__device__ float block_largest(float value) {
  __shared__ float scratch[split_threads / warp_size];
  for (int offset = warp_size / 2; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(all_lanes, value, offset));
  if (threadIdx.x % warp_size == 0) scratch[threadIdx.x / warp_size] = value;
  __syncthreads();
  for (const float other : scratch) value = fmaxf(value, other);
  return value;
}

// One block a row, which is in shared memory before its place is written. Bound by memory: read once, written once.
__global__ void __launch_bounds__(split_threads) split_rows(float* rows, int inner, float* units) {
  extern __shared__ float2 pairs[];
  float2* const own = reinterpret_cast<float2*>(rows + static_cast<std::int64_t>(blockIdx.x) * inner);
  float largest = 0;
  for (int i = static_cast<int>(threadIdx.x); i < inner / 2; i += split_threads) {
    const float2 pair = own[i];
    pairs[i] = pair;
    largest = fmaxf(largest, fmaxf(fabsf(pair.x), fabsf(pair.y)));
  }
  largest = block_largest(largest);  // every thread has read its part
  const int exponent = exponent_of(largest);
  const float scale = ldexpf(1, exponent);
  auto* const high = reinterpret_cast<__half2*>(own);
  __half2* const low = high + inner / 2;
  for (int i = static_cast<int>(threadIdx.x); i < inner / 2; i += split_threads) {
    const float x = pairs[i].x * scale, y = pairs[i].y * scale;
    const __half2 rounded = __floats2half2_rn(x, y);
    high[i] = rounded;
    low[i] = __floats2half2_rn(x - __low2float(rounded), y - __high2float(rounded));
  }
  if (threadIdx.x == 0) units[blockIdx.x] = ldexpf(1, -exponent);
}

__global__ void __launch_bounds__(split_threads)
    half_projection(const __nv_bfloat16* projection, std::int64_t inner, __half* out, float* units) {
  const __nv_bfloat16* row = projection + blockIdx.x * inner;
  float largest = 0;
  for (std::int64_t i = threadIdx.x; i < inner; i += split_threads) largest = fmaxf(largest, fabsf(to_float(row[i])));
  const int exponent = exponent_of(block_largest(largest));
  const float scale = ldexpf(1, exponent);
  for (std::int64_t i = threadIdx.x; i < inner; i += split_threads)
    out[blockIdx.x * inner + i] = __float2half_rn(to_float(row[i]) * scale);
  if (threadIdx.x == 0) units[blockIdx.x] = ldexpf(1, -exponent);
}

struct Operands {
  const __half* rows;  // [count, 2 · inner]: high parts, low parts
  const float* row_unit;
  std::int64_t count;
  const __half* projection;
  const float* column_unit;
  std::int64_t hidden;
  int inner;
};

// Starts copying elements [k, k + depth) of 128 rows.
__device__ void copy_part(__half* target, const __half* source, std::int64_t row_stride, std::int64_t first,
                          std::int64_t limit, int k, int inner) {
  constexpr int chunks = depth / 8;
#pragma unroll
  for (int i = 0; i < tile * chunks / threads; ++i) {
    const int at = i * threads + static_cast<int>(threadIdx.x), row = at / chunks, chunk = at % chunks;
    const bool inside = first + row < limit && k + chunk * 8 < inner;
    copy_async_16(target + row * stride + chunk * 8, source + (inside ? (first + row) * row_stride + k + chunk * 8 : 0),
                  inside);
  }
}

// A warp's 64 × 64 of the tile: four by eight products of 16 × 8.
using Sums = float[warp_rows / 16][warp_columns / 8][4];

__device__ int warp_row() { return static_cast<int>(threadIdx.x) / warp_size / 2 * warp_rows; }
__device__ int warp_column() { return static_cast<int>(threadIdx.x) / warp_size % 2 * warp_columns; }

// Both parts of the rows share every fragment of W_o that is loaded; fragments are loaded one step ahead of their products.
__device__ void multiply(const __half* shared, Sums& sums) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const __half* left = shared + (warp_row() + lane % 16) * stride + lane / 16 * 8;
  const __half* right = shared + 2 * part + (warp_column() + lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8;
  constexpr int row_tiles = warp_rows / 16, pairs = warp_columns / 16, steps = depth / 16 * row_tiles;
  unsigned a[2][2][4], b[2][pairs][4];
  const auto load_left = [&](int step) {
    const __half* at = left + step % row_tiles * 16 * stride + step / row_tiles * 16;
    load_matrices(a[step % 2][0], at);
    load_matrices(a[step % 2][1], at + part);
  };
  const auto load_right = [&](int k) {
#pragma unroll
    for (int p = 0; p < pairs; ++p) load_matrices(b[k % 2][p], right + p * 16 * stride + k * 16);
  };
  load_right(0);
  load_left(0);
#pragma unroll
  for (int step = 0; step < steps; ++step) {
    const int k = step / row_tiles, m = step % row_tiles;
    if (step + 1 < steps) load_left(step + 1);
    if (m == row_tiles / 2 && k + 1 < depth / 16) load_right(k + 1);
#pragma unroll
    for (int which = 0; which < 2; ++which)
#pragma unroll
      for (int n = 0; n < 2 * pairs; ++n)
        multiply_add<__half>(sums[m][n], a[step % 2][which], b[k % 2][n / 2][n % 2 * 2], b[k % 2][n / 2][n % 2 * 2 + 1]);
  }
}

// A 128 × 128 tile of rows · W_oᵀ. Bound by the tensor cores: two products of float16 for each of float32. Shared memory
// delivers 12 matrices of 512 bytes for 64 products of a warp, some three quarters of the products' time.
__device__ void product_tile(const Operands& o, std::int64_t first_row, std::int64_t first_column, __half* shared,
                             Sums& sums) {
  const int count = (o.inner + depth - 1) / depth;
  const auto start = [&](int t) {
    if (t < count) {
      __half* slot = shared + t % stages * stage_elements;
      copy_part(slot, o.rows, 2 * o.inner, first_row, o.count, t * depth, o.inner);
      copy_part(slot + part, o.rows + o.inner, 2 * o.inner, first_row, o.count, t * depth, o.inner);
      copy_part(slot + 2 * part, o.projection, o.inner, first_column, o.hidden, t * depth, o.inner);
    }
    copy_async_commit();
  };
  for (int t = 0; t < stages - 1; ++t) start(t);
  for (int t = 0; t < count; ++t) {
    copy_async_wait<stages - 2>();
    __syncthreads();  // the tile is there for every thread, and nobody reads the one before it any more
    start(t + stages - 1);
    multiply(shared + t % stages * stage_elements, sums);
  }
  copy_async_wait<0>();
  __syncthreads();
}

// Where the numbers of `sums` belong: sums[m][n][2 · half + j] is of this row of the tile and this column of the matrix.
__device__ int row_in_tile(int m, int half) {
  return warp_row() + m * 16 + half * 8 + static_cast<int>(threadIdx.x) % warp_size / 4;
}
__device__ std::int64_t column_at(std::int64_t first_column, int n, int j) {
  return first_column + warp_column() + n * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + j;
}
__device__ float unit_of(const Operands& o, std::int64_t column) {
  return o.column_unit != nullptr ? o.column_unit[column] : 1.0F;
}

__global__ void __launch_bounds__(threads, 2) project_split(Operands o, float* before) {
  extern __shared__ __align__(16) __half tiles[];
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.y) * tile,
                     first_column = static_cast<std::int64_t>(blockIdx.x) * tile;
  Sums sums{};
  product_tile(o, first_row, first_column, tiles, sums);
#pragma unroll
  for (int m = 0; m < warp_rows / 16; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t row = first_row + row_in_tile(m, half);
      if (row >= o.count) continue;
#pragma unroll
      for (int n = 0; n < warp_columns / 8; ++n)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const std::int64_t column = column_at(first_column, n, j);
          if (column < o.hidden)
            before[row * o.hidden + column] = sums[m][n][half * 2 + j] * o.row_unit[row] * unit_of(o, column);
        }
    }
}

// partial [rows, column tiles]
__global__ void __launch_bounds__(threads, 2)
    layer_partials_split(Operands o, const float* before, int steps, LayerSums* partial) {
  extern __shared__ __align__(16) __half tiles[];
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.y) * tile,
                     first_column = static_cast<std::int64_t>(blockIdx.x) * tile;
  Sums sums{};
  product_tile(o, first_row, first_column, tiles, sums);
  auto* const of_warps = reinterpret_cast<LayerSums*>(tiles);  // [2, 128]
#pragma unroll
  for (int m = 0; m < warp_rows / 16; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t row = first_row + row_in_tile(m, half);
      LayerSums total{};
      if (row < o.count) {
        const float row_unit = o.row_unit[row];
        const float* full = before + row % steps * o.hidden;
#pragma unroll
        for (int n = 0; n < warp_columns / 8; ++n)
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const std::int64_t column = column_at(first_column, n, j);
            if (column >= o.hidden) continue;
            const double delta = sums[m][n][half * 2 + j] * row_unit * unit_of(o, column), output = full[column],
                         after = output + delta;
            total.difference += delta * delta;
            total.kept += after * after;
            total.inner += output * after;
          }
      }
#pragma unroll
      for (int offset = 2; offset > 0; offset /= 2) {
        total.difference += __shfl_xor_sync(all_lanes, total.difference, offset);
        total.kept += __shfl_xor_sync(all_lanes, total.kept, offset);
        total.inner += __shfl_xor_sync(all_lanes, total.inner, offset);
      }
      if (threadIdx.x % 4 == 0) of_warps[warp_column() / warp_columns * tile + row_in_tile(m, half)] = total;
    }
  __syncthreads();
  const std::int64_t row = first_row + threadIdx.x;
  if (row >= o.count) return;
  const LayerSums left = of_warps[threadIdx.x], right = of_warps[tile + threadIdx.x];
  partial[row * gridDim.x + blockIdx.x] = {left.difference + right.difference, left.kept + right.kept,
                                           left.inner + right.inner};
}

Operands operands(const float* split, const float* unit, std::int64_t count, const HalfProjection& projection) {
  return {reinterpret_cast<const __half*>(split),
          unit,
          count,
          static_cast<const __half*>(projection.elements),
          projection.unit,
          projection.hidden,
          static_cast<int>(projection.inner)};
}

}  // namespace

bool half_projection_supported(ElementType type, std::int64_t inner) {
  return type != ElementType::float32 && inner % 8 == 0 && inner > 0 && inner <= most_inner;
}

void launch_half_projection(const void* projection, std::int64_t hidden, std::int64_t inner, void* out, float* unit,
                            cudaStream_t stream) {
  if (hidden == 0) return;
  half_projection<<<static_cast<unsigned>(hidden), split_threads, 0, stream>>>(static_cast<const __nv_bfloat16*>(projection),
                                                                               inner, static_cast<__half*>(out), unit);
  check_launch("the output projection in float16");
}

void launch_split_rows(float* rows, std::int64_t count, std::int64_t inner, float* unit, cudaStream_t stream) {
  if (count == 0) return;
  const std::size_t shared = static_cast<std::size_t>(inner) * sizeof(float);
  if (shared > (std::size_t{40} << 10)) allow_shared_memory(split_rows, shared);
  split_rows<<<static_cast<unsigned>(count), split_threads, shared, stream>>>(rows, static_cast<int>(inner), unit);
  check_launch("differences as pairs of float16");
}

void launch_project_split(const float* split, const float* unit, std::int64_t count, const HalfProjection& projection,
                          float* before, cudaStream_t stream) {
  if (count == 0) return;
  const dim3 grid(blocks_for(projection.hidden, tile), blocks_for(count, tile));
  allow_shared_memory(project_split, shared_bytes);
  project_split<<<grid, threads, shared_bytes, stream>>>(operands(split, unit, count, projection), before);
  check_launch("the output projection on tensor cores");
}

void launch_layer_sums_split(const float* split, const float* unit, std::int64_t rows, const HalfProjection& projection,
                             const float* before, std::int64_t steps, LayerSums* partial, LayerSums* sums,
                             cudaStream_t stream) {
  if (rows == 0) return;
  const dim3 grid(blocks_for(projection.hidden, tile), blocks_for(rows, tile));
  allow_shared_memory(layer_partials_split, shared_bytes);
  layer_partials_split<<<grid, threads, shared_bytes, stream>>>(operands(split, unit, rows, projection), before,
                                                                static_cast<int>(steps), partial);
  check_launch("the output projection of differences on tensor cores");
  launch_add_partials(partial, rows, static_cast<int>(grid.x), sums, stream);
}

}  // namespace kvreplay::cuda
