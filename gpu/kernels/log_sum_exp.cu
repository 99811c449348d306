#include "gpu/kernels/log_sum_exp.h"

#include <cmath>

#include "gpu/device.h"
#include "gpu/kernels/attention_plain.cuh"
#include "gpu/kernels/hopper.h"
#include "gpu/kernels/hopper_stream.cuh"
#include "gpu/kernels/launch.cuh"

namespace kvreplay::cuda {
namespace {

struct LogSumExpArguments {
  Visibility sees;
  int head_dim, group;
  std::int64_t query_stride, key_stride;
  double scale, softcap;
  float scale_log2;  // scale · log2 e
};

LogSumExpArguments arguments_of(const AttentionShape& shape) {
  return {Visibility::of(shape), shape.head_dim, shape.group(), shape.query_stride,
          shape.key_stride,      shape.scale,    shape.softcap, static_cast<float>(shape.scale * log2_of_e)};
}

// ---- plain ---------------------------------------------------------------------------------------------------------------

// A block: 64 queries of one head; the keys in tiles of 64. Every thread keeps a maximum and a sum for each of its four
// rows.
template <class Element>
__global__ void __launch_bounds__(plain::threads)
    log_sum_exp_plain_kernel(const Element* query, const Element* key, LogSumExpArguments given, float* log_sum_exp) {
  __shared__ plain::TileMemory memory;
  const int head = blockIdx.y, first = blockIdx.x * plain::tile;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  const Element* queries = query + (head * given.query_stride + first) * given.head_dim;
  const Element* keys = key + head / given.group * given.key_stride * given.head_dim;
  const int rows = min(plain::tile, given.sees.queries - first), end = given.sees.key_end(first, rows);
  double top[4], sum[4] = {};
#pragma unroll
  for (double& value : top) value = -INFINITY;
  for (int k = given.sees.key_begin(first); k < end; k += plain::tile) {
    double cell[4][4];
    plain::multiply(queries, rows, keys + static_cast<std::int64_t>(k) * given.head_dim, given.sees.keys - k, given.head_dim,
                    memory, cell);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int row = i / 4;
      if (!given.sees(first + y + 16 * row, k + x + i % 4 * 16)) continue;
      const double z = plain::logit(cell[row][i % 4], given.scale, given.softcap);
      const double above = fmax(top[row], z);
      sum[row] = sum[row] * exp(top[row] - above) + exp(z - above);
      top[row] = above;
    }
  }
#pragma unroll
  for (int row = 0; row < 4; ++row) {
    double above = top[row];
    for (int offset = 8; offset > 0; offset /= 2) above = fmax(above, __shfl_xor_sync(0xffffffffU, above, offset));
    const double total = plain::sum_over_row(sum[row] == 0 ? 0 : sum[row] * exp(top[row] - above));
    const int at = first + y + 16 * row;
    if (x == 0 && at < given.sees.queries)
      log_sum_exp[static_cast<std::int64_t>(head) * given.sees.queries + at] = static_cast<float>(above + log(total));
  }
}

// ---- tensor cores
// ----------------------------------------------------------------------------------------------------------

#if KVREPLAY_HOPPER_CODE
// What a thread has seen of one row: Σ 2^(scale_log2 · product + shift) with shift = -(largest scaled product so far),
// float32 and the same number in every use, so that a shift that stays the same rescales by exactly 1.
struct RunningSum {
  float shift = INFINITY;
  hopper::CarefulSum sum;
};

// Row `row` (0, 1) of a thread takes the 32 numbers of a tile. Masked ones are -inf.
template <int Share, bool Masked>
__device__ inline void add_row(const float (&d)[64], int row, float scale, RunningSum& running) {
  float top = fmaxf(d[2 * row], d[2 * row + 1]), other = fmaxf(d[2 * row + 4], d[2 * row + 5]);
#pragma unroll
  for (int j = 2; j < 16; j += 2) {
    top = fmaxf(top, fmaxf(d[4 * j + 2 * row], d[4 * j + 2 * row + 1]));
    other = fmaxf(other, fmaxf(d[4 * j + 4 + 2 * row], d[4 * j + 5 + 2 * row]));
  }
  const float shift = fminf(running.shift, -(fmaxf(top, other) * scale));
  if (Masked && shift == INFINITY) return;  // nothing was seen yet
  const float factor = shift == running.shift ? 1.0F : hopper::exp2_unit(shift - running.shift);
  running.shift = shift;
  running.sum.sum *= factor;
  running.sum.excess *= factor;
  float part[2] = {};
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const int at = 4 * j + 2 * row;
    part[0] += hopper::exp2_shared < Masked ? 0 : Share > (fmaf(d[at], scale, shift), at);
    part[1] += hopper::exp2_shared < Masked ? 0 : Share > (fmaf(d[at + 1], scale, shift), at + 1);
  }
  running.sum.add(part[0] + part[1]);
}

template <int Share>
__device__ inline void add_tile(const float (&d)[64], float scale, RunningSum (&running)[2]) {
  add_row<Share, false>(d, 0, scale, running[0]);
  add_row<Share, false>(d, 1, scale, running[1]);
}

// The same where not every key of [key, key + 128) is seen by the queries `query` and `query` + 8.
__device__ inline void add_masked_tile(float (&d)[64], float scale, const Visibility& sees, int query, int key,
                                       RunningSum (&running)[2]) {
#pragma unroll
  for (int at = 0; at < 64; ++at)
    if (!sees(query + at % 4 / 2 * 8, key + at / 4 * 8 + threadIdx.x % 4 * 2 + at % 2)) d[at] = -INFINITY;
  add_row<0, true>(d, 0, scale, running[0]);
  add_row<0, true>(d, 1, scale, running[1]);
}
#endif

// A block: 256 queries of one head, which with a causal mask see the more keys the later they are: the last queries start
// first. Keys come oldest first, so that blocks that run together read the same tiles from the L2 cache.
template <class Element, int HeadDim, int Share>
__global__ void __launch_bounds__(hopper::stream_threads, 1)
    log_sum_exp_tensor_kernel(const __grid_constant__ CUtensorMap key_map, const Element* query, LogSumExpArguments given,
                              float* log_sum_exp) {
#if KVREPLAY_HOPPER_CODE
  extern __shared__ unsigned char shared[];
  hopper::StreamRing<HeadDim> ring(shared);
  const Visibility sees = given.sees;
  const int head = blockIdx.y, first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * hopper::resident_rows;
  const int begin = sees.key_begin(first) / hopper::stream_rows * hopper::stream_rows;
  const int end = sees.key_end(first, min(hopper::resident_rows, sees.queries - first));
  const int count = (end - begin + hopper::stream_rows - 1) / hopper::stream_rows;
  const int warpgroup = __shfl_sync(0xffffffffU, threadIdx.x / hopper::warpgroup_threads, 0);

  if (warpgroup == 0) {
    hopper::fewer_registers<24>();
    if (threadIdx.x == 0)
      for (int i = 0; i < count; ++i) ring.fill(i, &key_map, begin + i * hopper::stream_rows, head / given.group, nullptr);
    return;
  }

  hopper::more_registers<240>();
  const int mine = first + (warpgroup - 1) * 2 * hopper::half_rows;
  const int lane_row = threadIdx.x % hopper::warpgroup_threads / 32 * 16 + threadIdx.x % 32 / 4;
  std::uint32_t low[HeadDim / 16][4], high[HeadDim / 16][4];
  const Element* rows = query + (head * given.query_stride + mine) * HeadDim;
  hopper::load_rows<Element, HeadDim>(low, rows, sees.queries - mine);
  hopper::load_rows<Element, HeadDim>(high, rows + hopper::half_rows * HeadDim, sees.queries - mine - hopper::half_rows);

  RunningSum running[2][2];
  const auto consume = [&](float(&d)[64], int half, int i) {
    const int key = begin + i * hopper::stream_rows, from = mine + half * hopper::half_rows;
    if (key + hopper::stream_rows <= sees.keys && sees.all(from, hopper::half_rows, key, hopper::stream_rows))
      add_tile<Share>(d, given.scale_log2, running[half]);
    else
      add_masked_tile(d, given.scale_log2, sees, from + lane_row, key, running[half]);
  };
  if (count > 0) hopper::consume_stream<Element, HeadDim>(ring, low, high, count, consume);

#pragma unroll
  for (int part = 0; part < 4; ++part) {
    const RunningSum& row = running[part / 2][part % 2];
    float shift = fminf(row.shift, __shfl_xor_sync(0xffffffffU, row.shift, 1));
    shift = fminf(shift, __shfl_xor_sync(0xffffffffU, shift, 2));
    double sum = row.shift == INFINITY ? 0 : row.sum.total() * exp2(static_cast<double>(shift) - row.shift);
    sum += __shfl_xor_sync(0xffffffffU, sum, 1);
    sum += __shfl_xor_sync(0xffffffffU, sum, 2);
    const int at = mine + part / 2 * hopper::half_rows + lane_row + part % 2 * 8;
    if (threadIdx.x % 4 == 0 && at < sees.queries)
      log_sum_exp[static_cast<std::int64_t>(head) * sees.queries + at] = static_cast<float>((log2(sum) - shift) * ln_of_2);
  }
#else
  __trap();
#endif
}

template <class Element, int HeadDim, int Share>
void launch(const Element* query, const Element* key, const AttentionShape& shape, float* log_sum_exp, cudaStream_t stream) {
  const auto kernel = log_sum_exp_tensor_kernel<Element, HeadDim, Share>;
  constexpr int memory = hopper::StreamRing<HeadDim>::bytes;
  allow_shared_memory(kernel, memory);
  const CUtensorMap map = hopper::map_rows(key, std::is_same_v<Element, __nv_bfloat16>, HeadDim, shape.keys, shape.kv_heads,
                                           shape.key_stride, hopper::stream_rows);
  const dim3 grid(static_cast<unsigned>((shape.queries + hopper::resident_rows - 1) / hopper::resident_rows),
                  static_cast<unsigned>(shape.query_heads));
  kernel<<<grid, hopper::stream_threads, memory, stream>>>(map, query, arguments_of(shape), log_sum_exp);
  check_launch("log_sum_exp_tensor");
}

}  // namespace

template <class Element>
void log_sum_exp_plain(const Element* query, const Element* key, const AttentionShape& shape, float* log_sum_exp,
                       cudaStream_t stream) {
  if (shape.queries == 0) return;
  const dim3 grid(static_cast<unsigned>((shape.queries + plain::tile - 1) / plain::tile),
                  static_cast<unsigned>(shape.query_heads));
  log_sum_exp_plain_kernel<<<grid, plain::threads, 0, stream>>>(query, key, arguments_of(shape), log_sum_exp);
  check_launch("log_sum_exp_plain");
}

template <class Element>
void log_sum_exp_tensor(const Element* query, const Element* key, const AttentionShape& shape, float* log_sum_exp,
                        cudaStream_t stream, int polynomial_eighths) {
  constexpr int usual = default_log_sum_exp_eighths;
  if constexpr (std::is_same_v<Element, __half>) {
    if (shape.head_dim == 128 && polynomial_eighths == 1)
      return launch<Element, 128, 1>(query, key, shape, log_sum_exp, stream);
    if (shape.head_dim == 128 && polynomial_eighths == 2)
      return launch<Element, 128, 2>(query, key, shape, log_sum_exp, stream);
  }
  if (shape.head_dim == 128)
    launch<Element, 128, usual>(query, key, shape, log_sum_exp, stream);
  else
    launch<Element, 64, usual>(query, key, shape, log_sum_exp, stream);
}

template <class Element>
void log_sum_exp(const Element* query, const Element* key, const AttentionShape& shape, float* log_sum_exp,
                 cudaStream_t stream) {
  if constexpr (sizeof(Element) == 2) {
    if (hopper::supports(shape, query, key)) return log_sum_exp_tensor(query, key, shape, log_sum_exp, stream);
  }
  log_sum_exp_plain(query, key, shape, log_sum_exp, stream);
}

#define KVREPLAY_INSTANTIATE(Element)                                                                           \
  template void log_sum_exp_plain(const Element*, const Element*, const AttentionShape&, float*, cudaStream_t); \
  template void log_sum_exp(const Element*, const Element*, const AttentionShape&, float*, cudaStream_t);
KVREPLAY_INSTANTIATE(float)
KVREPLAY_INSTANTIATE(__half)
KVREPLAY_INSTANTIATE(__nv_bfloat16)
#undef KVREPLAY_INSTANTIATE
template void log_sum_exp_tensor(const __half*, const __half*, const AttentionShape&, float*, cudaStream_t, int);
template void log_sum_exp_tensor(const __nv_bfloat16*, const __nv_bfloat16*, const AttentionShape&, float*, cudaStream_t,
                                 int);

}  // namespace kvreplay::cuda
