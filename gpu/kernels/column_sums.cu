#include "gpu/kernels/column_sums.h"

#include <cmath>

#include "gpu/device.h"
#include "gpu/kernels/attention_plain.cuh"
#include "gpu/kernels/hopper.h"
#include "gpu/kernels/hopper_stream.cuh"
#include "gpu/kernels/launch.cuh"

namespace kvreplay::cuda {
namespace {

struct ColumnSumsArguments {
  Visibility sees;
  int head_dim, group;
  std::int64_t query_stride, key_stride;
  int first_key;
  int padded_queries;  // queries up to a multiple of a tile
  double scale, softcap;
  float scale_log2;  // scale · log2 e
};

std::int64_t padded_queries(const AttentionShape& shape) {
  return (shape.queries + hopper::stream_rows - 1) / hopper::stream_rows * hopper::stream_rows;
}

ColumnSumsArguments arguments_of(const AttentionShape& shape, std::int64_t first_key) {
  return {Visibility::of(shape),
          shape.head_dim,
          shape.group(),
          shape.query_stride,
          shape.key_stride,
          static_cast<int>(first_key),
          static_cast<int>(padded_queries(shape)),
          shape.scale,
          shape.softcap,
          static_cast<float>(shape.scale * log2_of_e)};
}

// ---- plain ---------------------------------------------------------------------------------------------------------------

// A block: 64 keys of one query head; the queries in tiles of 64.
template <class Element>
__global__ void __launch_bounds__(plain::threads)
    column_sums_plain_kernel(const Element* query, const Element* key, const float* log_sum_exp, ColumnSumsArguments given,
                             float* sums) {
  __shared__ plain::TileMemory memory;
  const int head = blockIdx.y, first = given.first_key + static_cast<int>(blockIdx.x) * plain::tile;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  const Element* keys = key + (head / given.group * given.key_stride + first) * given.head_dim;
  const Element* queries = query + head * given.query_stride * given.head_dim;
  const int end = given.sees.query_end(first, plain::tile);
  double total[4] = {};
  for (int q = given.sees.query_begin(first); q < end; q += plain::tile) {
    double cell[4][4];
    plain::multiply(keys, given.sees.keys - first, queries + static_cast<std::int64_t>(q) * given.head_dim,
                    given.sees.queries - q, given.head_dim, memory, cell);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = q + x + 16 * j;
      if (row >= given.sees.queries) continue;
      const double shift = log_sum_exp[static_cast<std::int64_t>(head) * given.sees.queries + row];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (given.sees(row, first + y + 16 * i))
          total[i] += exp(plain::logit(cell[i][j], given.scale, given.softcap) - shift);
    }
  }
  const int columns = given.sees.keys - given.first_key;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const double sum = plain::sum_over_row(total[i]);
    const int column = first + y + 16 * i - given.first_key;
    if (x == 0 && column < columns) sums[static_cast<std::int64_t>(head) * columns + column] = static_cast<float>(sum);
  }
}

// ---- tensor cores
// ----------------------------------------------------------------------------------------------------------

// shifts [Hq, padded_queries]: -lse · log2 e, -inf past the end, so that those queries weigh nothing. Within 16 queries they
// stand in the order in which a consumer's lane wants them: lane l has columns 2 (l % 4), + 1, + 8, + 9 of an accumulator.
__global__ void shift_queries(const float* log_sum_exp, int queries, int padded, float* shifts) {
  const int at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= padded) return;
  const int part = at % 16;
  const int query = at - part + part / 4 * 2 + part % 4 / 2 * 8 + part % 2;
  const std::int64_t head = blockIdx.y;
  shifts[head * padded + at] =
      query < queries ? static_cast<float>(-log2_of_e * log_sum_exp[head * queries + query]) : -INFINITY;
}

#if KVREPLAY_HOPPER_CODE
// Both rows of a thread: Σ over the tile's queries of 2^(scale_log2 · product + shift).
template <int Share>
__device__ inline void sum_tile(const float (&d)[64], const float4* shifts, float scale, float (&sum)[2]) {
  float part[4] = {};  // two chains for each row
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float4 shift = shifts[4 * j + threadIdx.x % 4];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int at = 8 * j + 2 * row;
      part[2 * row] += hopper::exp2_shared<Share>(fmaf(d[at], scale, shift.x), at);
      part[2 * row + 1] += hopper::exp2_shared<Share>(fmaf(d[at + 1], scale, shift.y), at + 1);
      part[2 * row] += hopper::exp2_shared<Share>(fmaf(d[at + 4], scale, shift.z), at + 4);
      part[2 * row + 1] += hopper::exp2_shared<Share>(fmaf(d[at + 5], scale, shift.w), at + 5);
    }
  }
  sum[0] = part[0] + part[1];
  sum[1] = part[2] + part[3];
}

// The same where not every query of [query, query + 128) sees the keys `key` and `key` + 8.
__device__ inline void sum_masked_tile(const float (&d)[64], const float4* shifts, float scale, const Visibility& sees,
                                       int query, int key, float (&sum)[2]) {
  sum[0] = sum[1] = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float4 shift = shifts[4 * j + threadIdx.x % 4];
    const int column = query + 16 * j + threadIdx.x % 4 * 2;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int at = 8 * j + 2 * row, seen = key + 8 * row;
      if (sees(column, seen)) sum[row] += hopper::exp2_unit(fmaf(d[at], scale, shift.x));
      if (sees(column + 1, seen)) sum[row] += hopper::exp2_unit(fmaf(d[at + 1], scale, shift.y));
      if (sees(column + 8, seen)) sum[row] += hopper::exp2_unit(fmaf(d[at + 4], scale, shift.z));
      if (sees(column + 9, seen)) sum[row] += hopper::exp2_unit(fmaf(d[at + 5], scale, shift.w));
    }
  }
}
#endif

// A block: 256 keys of one query head. Keys come oldest first, which with a causal mask have the most queries: long blocks
// start first, so the last ones to finish are short. Queries come latest first: blocks that run together, whatever their
// keys, read the same tiles at nearly the same time, from the L2 cache.
template <class Element, int HeadDim, int Share>
__global__ void __launch_bounds__(hopper::stream_threads, 1)
    column_sums_tensor_kernel(const __grid_constant__ CUtensorMap query_map, const Element* key, const float* shifts,
                              ColumnSumsArguments given, float* sums) {
#if KVREPLAY_HOPPER_CODE
  extern __shared__ unsigned char shared[];
  hopper::StreamRing<HeadDim> ring(shared);
  const int head = blockIdx.y, first = given.first_key + static_cast<int>(blockIdx.x) * hopper::resident_rows;
  const Visibility sees = given.sees;
  const int tile_begin = sees.query_begin(first) / hopper::stream_rows;
  const int tile_end = (sees.query_end(first, hopper::resident_rows) + hopper::stream_rows - 1) / hopper::stream_rows;
  const int count = tile_end - tile_begin;
  const int warpgroup = __shfl_sync(0xffffffffU, threadIdx.x / hopper::warpgroup_threads, 0);

  if (warpgroup == 0) {
    hopper::fewer_registers<24>();
    if (threadIdx.x == 0)
      for (int i = 0; i < count; ++i) {
        const int row = (tile_end - 1 - i) * hopper::stream_rows;
        ring.fill(i, &query_map, row, head, shifts + static_cast<std::int64_t>(head) * given.padded_queries + row);
      }
    return;
  }

  hopper::more_registers<240>();
  const int mine = first + (warpgroup - 1) * 2 * hopper::half_rows;
  const int lane_row = threadIdx.x % hopper::warpgroup_threads / 32 * 16 + threadIdx.x % 32 / 4;
  std::uint32_t low[HeadDim / 16][4], high[HeadDim / 16][4];
  const Element* rows = key + (head / given.group * given.key_stride + mine) * HeadDim;
  hopper::load_rows<Element, HeadDim>(low, rows, sees.keys - mine);
  hopper::load_rows<Element, HeadDim>(high, rows + hopper::half_rows * HeadDim, sees.keys - mine - hopper::half_rows);

  hopper::CarefulSum total[2][2];
  const auto consume = [&](const float(&d)[64], int half, int i) {
    const int query = (tile_end - 1 - i) * hopper::stream_rows, from = mine + half * hopper::half_rows;
    const auto* tile_shifts = reinterpret_cast<const float4*>(ring.tile_numbers(i));
    float sum[2];
    if (sees.all(query, hopper::stream_rows, from, hopper::half_rows))
      sum_tile<Share>(d, tile_shifts, given.scale_log2, sum);
    else
      sum_masked_tile(d, tile_shifts, given.scale_log2, sees, query, from + lane_row, sum);
    total[half][0].add(sum[0]);
    total[half][1].add(sum[1]);
  };
  if (count > 0) hopper::consume_stream<Element, HeadDim>(ring, low, high, count, consume);

  const int columns = sees.keys - given.first_key;
#pragma unroll
  for (int part = 0; part < 4; ++part) {
    double sum = total[part / 2][part % 2].total();
    sum += __shfl_xor_sync(0xffffffffU, sum, 1);
    sum += __shfl_xor_sync(0xffffffffU, sum, 2);
    const int column = mine + part / 2 * hopper::half_rows + lane_row + part % 2 * 8 - given.first_key;
    if (threadIdx.x % 4 == 0 && column < columns)
      sums[static_cast<std::int64_t>(head) * columns + column] = static_cast<float>(sum);
  }
#else
  __trap();
#endif
}

template <class Element, int HeadDim, int Share>
void launch(const Element* query, const Element* key, const float* shifts, const AttentionShape& shape,
            std::int64_t first_key, float* sums, cudaStream_t stream) {
  const auto kernel = column_sums_tensor_kernel<Element, HeadDim, Share>;
  constexpr int memory = hopper::StreamRing<HeadDim>::bytes;
  allow_shared_memory(kernel, memory);
  const CUtensorMap map = hopper::map_rows(query, std::is_same_v<Element, __nv_bfloat16>, HeadDim, shape.queries,
                                           shape.query_heads, shape.query_stride, hopper::stream_rows);
  const dim3 grid(static_cast<unsigned>((shape.keys - first_key + hopper::resident_rows - 1) / hopper::resident_rows),
                  static_cast<unsigned>(shape.query_heads));
  kernel<<<grid, hopper::stream_threads, memory, stream>>>(map, key, shifts, arguments_of(shape, first_key), sums);
  check_launch("column_sums_tensor");
}

}  // namespace

std::size_t column_sums_scratch_bytes(const AttentionShape& shape) {
  return static_cast<std::size_t>(shape.query_heads) * static_cast<std::size_t>(padded_queries(shape)) * sizeof(float);
}

template <class Element>
void column_sums_plain(const Element* query, const Element* key, const float* log_sum_exp, const AttentionShape& shape,
                       std::int64_t first_key, float* sums, cudaStream_t stream) {
  if (shape.keys <= first_key) return;
  const dim3 grid(static_cast<unsigned>((shape.keys - first_key + plain::tile - 1) / plain::tile),
                  static_cast<unsigned>(shape.query_heads));
  column_sums_plain_kernel<<<grid, plain::threads, 0, stream>>>(query, key, log_sum_exp, arguments_of(shape, first_key),
                                                                sums);
  check_launch("column_sums_plain");
}

template <class Element>
void column_sums_tensor(const Element* query, const Element* key, const float* log_sum_exp, const AttentionShape& shape,
                        std::int64_t first_key, float* sums, void* scratch, cudaStream_t stream, int polynomial_eighths) {
  if (shape.keys <= first_key) return;
  auto* shifts = static_cast<float*>(scratch);
  const auto padded = static_cast<int>(padded_queries(shape));
  shift_queries<<<dim3(static_cast<unsigned>((padded + 255) / 256), static_cast<unsigned>(shape.query_heads)), 256, 0,
                  stream>>>(log_sum_exp, static_cast<int>(shape.queries), padded, shifts);
  check_launch("shift_queries");
  constexpr int usual = default_polynomial_eighths;
  if constexpr (std::is_same_v<Element, __half>) {
    if (shape.head_dim == 128 && polynomial_eighths == 0)
      return launch<Element, 128, 0>(query, key, shifts, shape, first_key, sums, stream);
    if (shape.head_dim == 128 && polynomial_eighths == 3)
      return launch<Element, 128, 3>(query, key, shifts, shape, first_key, sums, stream);
  }
  if (shape.head_dim == 128)
    launch<Element, 128, usual>(query, key, shifts, shape, first_key, sums, stream);
  else
    launch<Element, 64, usual>(query, key, shifts, shape, first_key, sums, stream);
}

template <class Element>
void column_sums(const Element* query, const Element* key, const float* log_sum_exp, const AttentionShape& shape,
                 std::int64_t first_key, float* sums, void* scratch, cudaStream_t stream) {
  if constexpr (sizeof(Element) == 2) {
    if (hopper::supports(shape, query, key))
      return column_sums_tensor(query, key, log_sum_exp, shape, first_key, sums, scratch, stream);
  }
  column_sums_plain(query, key, log_sum_exp, shape, first_key, sums, stream);
}

#define KVREPLAY_INSTANTIATE(Element)                                                                                  \
  template void column_sums_plain(const Element*, const Element*, const float*, const AttentionShape&, std::int64_t,   \
                                  float*, cudaStream_t);                                                               \
  template void column_sums(const Element*, const Element*, const float*, const AttentionShape&, std::int64_t, float*, \
                            void*, cudaStream_t);
KVREPLAY_INSTANTIATE(float)
KVREPLAY_INSTANTIATE(__half)
KVREPLAY_INSTANTIATE(__nv_bfloat16)
#undef KVREPLAY_INSTANTIATE
template void column_sums_tensor(const __half*, const __half*, const float*, const AttentionShape&, std::int64_t, float*,
                                 void*, cudaStream_t, int);
template void column_sums_tensor(const __nv_bfloat16*, const __nv_bfloat16*, const float*, const AttentionShape&,
                                 std::int64_t, float*, void*, cudaStream_t, int);

}  // namespace kvreplay::cuda
