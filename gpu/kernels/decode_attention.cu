#include "gpu/kernels/decode_attention.h"

#include <algorithm>
#include <cmath>

#include "gpu/device.h"
#include "gpu/kernels/attention_plain.cuh"
#include "gpu/kernels/hopper.h"
#include "gpu/kernels/hopper_stream.cuh"
#include "gpu/kernels/launch.cuh"
#include "gpu/kernels/log_sum_exp.h"

namespace kvreplay::cuda {
namespace {

constexpr int block_rows = 128;  // query rows of a block: two warpgroups of 64

struct DecodeArguments {
  Visibility sees;
  int head_dim, group;
  std::int64_t query_stride, key_stride;
  double scale, softcap;
  float scale_log2;  // scale · log2 e
};

DecodeArguments arguments_of(const AttentionShape& shape) {
  return {Visibility::of(shape), shape.head_dim, shape.group(), shape.query_stride,
          shape.key_stride,      shape.scale,    shape.softcap, static_cast<float>(shape.scale * log2_of_e)};
}

// ---- plain ---------------------------------------------------------------------------------------------------------------

// A block: 64 queries of one head and 64 columns of their output. The log-sum-exps are there; their rounding cancels in the
// quotient of Σ weight · value and Σ weight.
template <class Element>
__global__ void __launch_bounds__(plain::threads)
    decode_attention_plain_kernel(const Element* query, const Element* key, const Element* value, const float* log_sum_exp,
                                  DecodeArguments given, float* output) {
  __shared__ plain::TileMemory memory;
  __shared__ float weight[plain::tile][plain::tile + 1];
  __shared__ float values[plain::slice][plain::tile + 1];
  const int head = blockIdx.y, first = blockIdx.x * plain::tile, from = blockIdx.z * plain::tile, d = given.head_dim;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  const Element* queries = query + (head * given.query_stride + first) * d;
  const Element* keys = key + head / given.group * given.key_stride * d;
  const Element* head_values = value + head / given.group * given.key_stride * d;
  const int rows = min(plain::tile, given.sees.queries - first), end = given.sees.key_end(first, rows);
  double sum[4] = {}, total[4][4] = {};
  for (int k = given.sees.key_begin(first); k < end; k += plain::tile) {
    double cell[4][4];
    plain::multiply(queries, rows, keys + static_cast<std::int64_t>(k) * d, given.sees.keys - k, d, memory, cell);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int row = y + i / 4 * 16, column = x + i % 4 * 16;
      float w = 0;
      if (given.sees(first + row, k + column))
        w = static_cast<float>(exp(plain::logit(cell[i / 4][i % 4], given.scale, given.softcap) -
                                   log_sum_exp[static_cast<std::int64_t>(head) * given.sees.queries + first + row]));
      weight[row][column] = w;
      sum[i / 4] += w;
    }
    for (int part = 0; part < plain::tile; part += plain::slice) {
      __syncthreads();
      for (int i = threadIdx.x; i < plain::slice * plain::tile; i += plain::threads) {
        const int row = k + part + i / plain::tile, column = from + i % plain::tile;
        const bool inside = row < given.sees.keys && column < d;
        values[i / plain::tile][i % plain::tile] =
            inside ? plain::number(head_values + static_cast<std::int64_t>(row) * d + column) : 0.0F;
      }
      __syncthreads();
      for (int j = 0; j < plain::slice; ++j)
#pragma unroll
        for (int i = 0; i < 16; ++i)
          total[i / 4][i % 4] +=
              static_cast<double>(weight[y + i / 4 * 16][part + j]) * static_cast<double>(values[j][x + i % 4 * 16]);
    }
  }
#pragma unroll
  for (int row = 0; row < 4; ++row) sum[row] = plain::sum_over_row(sum[row]);
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const int row = first + y + i / 4 * 16, column = from + x + i % 4 * 16;
    if (row < given.sees.queries && column < d)
      output[(static_cast<std::int64_t>(head) * given.sees.queries + row) * d + column] =
          static_cast<float>(total[i / 4][i % 4] / sum[i / 4]);
  }
}

// ---- tensor cores
// ----------------------------------------------------------------------------------------------------------

// How the work is cut: `row_blocks` of 128 rows for each KV head, and `splits` of the keys so that one wave fills the
// device.
struct Cut {
  int row_blocks, splits;
  std::int64_t rows;  // Hq · S
};

Cut cut_of(const AttentionShape& shape) {
  int device = 0, multiprocessors = 0;
  check(cudaGetDevice(&device), "asking for the current device");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "asking for multiprocessors");
  const std::int64_t row_blocks = (shape.group() * shape.queries + block_rows - 1) / block_rows;
  const std::int64_t tiles = (shape.keys + hopper::stream_rows - 1) / hopper::stream_rows;
  const std::int64_t wanted = multiprocessors / std::max<std::int64_t>(1, row_blocks * shape.kv_heads);
  return {static_cast<int>(row_blocks),
          static_cast<int>(std::clamp<std::int64_t>(wanted, 1, std::max<std::int64_t>(1, tiles))),
          shape.query_heads * shape.queries};
}

#if KVREPLAY_HOPPER_CODE
// The largest weight of a tile is 2^14: small weights then keep their relative precision down to 2^-28 in float16.
constexpr float weight_exponent = 14;

// The two rows of a thread, of which the four lanes of a quad have 32 columns of a tile each.
struct SoftmaxRows {
  float shift[2] = {INFINITY, INFINITY};      // weight = 2^(scale_log2 · product + shift); the same in all lanes of a quad
  hopper::CarefulSum sum[2], rounded_sum[2];  // of this lane's columns

  // d becomes weights. factor: by what everything summed before is to be multiplied.
  __device__ void weigh(float (&d)[64], float scale, float (&factor)[2]) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float top = fmaxf(d[2 * row], d[2 * row + 1]), other = fmaxf(d[2 * row + 4], d[2 * row + 5]);
#pragma unroll
      for (int j = 2; j < 16; j += 2) {
        top = fmaxf(top, fmaxf(d[4 * j + 2 * row], d[4 * j + 2 * row + 1]));
        other = fmaxf(other, fmaxf(d[4 * j + 4 + 2 * row], d[4 * j + 5 + 2 * row]));
      }
      top = fmaxf(top, other);
      top = fmaxf(top, __shfl_xor_sync(0xffffffffU, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffU, top, 2));
      const float next = fminf(shift[row], weight_exponent - top * scale);
      factor[row] = next == shift[row] ? 1.0F : hopper::exp2_unit(next - shift[row]);
      shift[row] = next;
      const float used = next == INFINITY ? 0.0F : next;  // all masked so far: every product is -inf, every weight 0
      sum[row].sum *= factor[row];
      sum[row].excess *= factor[row];
      rounded_sum[row].sum *= factor[row];
      rounded_sum[row].excess *= factor[row];
      float part[2] = {};
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        const int at = 4 * j + 2 * row;
        d[at] = hopper::exp2_unit(fmaf(d[at], scale, used));
        d[at + 1] = hopper::exp2_unit(fmaf(d[at + 1], scale, used));
        part[0] += d[at];
        part[1] += d[at + 1];
      }
      sum[row].add(part[0] + part[1]);
    }
  }
};

// Weights as the A of 8 products of 16 keys each: an accumulator's layout is that of A, 8 elements for a product. With Split
// the weights become what the rounding left.
template <class Element, bool Split>
__device__ inline void round_weights(float (&d)[64], std::uint32_t (&p)[8][4], float (&sum)[2]) {
  sum[0] = sum[1] = 0;
#pragma unroll
  for (int word = 0; word < 32; ++word) {
    p[word / 4][word % 4] = hopper::pack<Element>(d[2 * word], d[2 * word + 1]);
    const float2 rounded = hopper::unpack<Element>(p[word / 4][word % 4]);
    if constexpr (Split) {
      d[2 * word] -= rounded.x;
      d[2 * word + 1] -= rounded.y;
    } else {
      sum[word % 2] += rounded.x + rounded.y;
    }
  }
}

// o += p · tile of values, as one group.
template <class Element, int HeadDim, int Stages>
__device__ inline void start_output(float (&o)[HeadDim / 2], const std::uint32_t (&p)[8][4],
                                    const hopper::StreamRing<HeadDim, Stages>& values, int i, bool accumulate) {
  using Ring = hopper::StreamRing<HeadDim, Stages>;
  const std::uint32_t address = hopper::shared_address(values.tiles) + i % Stages * Ring::tile_bytes;
#pragma unroll
  for (int k = 0; k < 8; ++k)
    hopper::multiply<Element, 1>(o, p[k], hopper::rows_as_they_are(address + k * 2048, Ring::piece_bytes),
                                 k > 0 || accumulate ? 1 : 0);
}

template <int Count>
__device__ inline void rescale(float (&o)[Count], const float (&factor)[2]) {
  if (__all_sync(0xffffffffU, factor[0] == 1 && factor[1] == 1)) return;
#pragma unroll
  for (int at = 0; at < Count; ++at) o[at] *= factor[at % 4 / 2];
}
#endif

// A block: 128 rows of the G · S of one KV head (row r is query r % S of head r / S) and one part of the keys. Partial
// results: output [splits, Hq, S, d], normalised, and log_sums [splits, Hq, S], base 2.
//
// Two warpgroups of 64 rows. One product q·kᵀ and the product of the weights before with their values are under way
// together, and the weights of the one are formed while the other still runs; the two warpgroups cover each other's rest.
// With Split the registers do not suffice for that: products and weights take turns, and only the other warpgroup covers.
template <class Element, int HeadDim, bool Split>
__global__ void __launch_bounds__(hopper::stream_threads, 1)
    decode_attention_tensor_kernel(const __grid_constant__ CUtensorMap key_map,
                                   const __grid_constant__ CUtensorMap value_map, const Element* query,
                                   DecodeArguments given, float* output, float* log_sums) {
#if KVREPLAY_HOPPER_CODE
  constexpr int stages = 3 * 128 / HeadDim;
  using Ring = hopper::StreamRing<HeadDim, stages>;
  extern __shared__ unsigned char shared[];
  Ring keys(shared), values(shared + Ring::bytes);
  const Visibility sees = given.sees;
  const int first = blockIdx.x * block_rows, head = blockIdx.y, split = blockIdx.z;
  const int rows = given.group * sees.queries;
  const int first_tile = sees.key_begin(0) / hopper::stream_rows;
  const int tiles = (sees.key_end(0, sees.queries) + hopper::stream_rows - 1) / hopper::stream_rows - first_tile;
  const auto tile_of = [&](int part) {
    return first_tile + static_cast<int>(static_cast<std::int64_t>(tiles) * part / static_cast<int>(gridDim.z));
  };
  const int begin = tile_of(split) * hopper::stream_rows;
  const int count = tile_of(split + 1) - tile_of(split);
  const int warpgroup = __shfl_sync(0xffffffffU, threadIdx.x / hopper::warpgroup_threads, 0);

  if (warpgroup == 0) {
    hopper::fewer_registers<24>();
    if (threadIdx.x == 0)
      for (int i = 0; i <= count; ++i) {
        if (i < count) keys.fill(i, &key_map, begin + i * hopper::stream_rows, head, nullptr);
        if (i > 0) values.fill(i - 1, &value_map, begin + (i - 1) * hopper::stream_rows, head, nullptr);
      }
    return;
  }

  hopper::more_registers<240>();
  const int mine =
      first + (warpgroup - 1) * hopper::half_rows + threadIdx.x % hopper::warpgroup_threads / 32 * 16 + threadIdx.x % 32 / 4;
  const auto row_pointer = [&](int row) {
    const std::int64_t query_head = head * given.group + row / sees.queries;
    return row < rows ? query + (query_head * given.query_stride + row % sees.queries) * HeadDim : nullptr;
  };
  std::uint32_t q[HeadDim / 16][4];
  hopper::load_rows<Element, HeadDim>(q, row_pointer(mine), row_pointer(mine + 8));
  const int step[2] = {mine < rows ? mine % sees.queries : sees.queries,  // which sees nothing
                       mine + 8 < rows ? (mine + 8) % sees.queries : sees.queries};

  SoftmaxRows softmax;
  float o[HeadDim / 2], d[64], factor[2], rounded[2];
  std::uint32_t p[8][4];
  const auto weigh = [&](int i) {
    const int key = begin + i * hopper::stream_rows;
    if (key + hopper::stream_rows > sees.keys || !sees.all(0, sees.queries, key, hopper::stream_rows)) {
#pragma unroll
      for (int at = 0; at < 64; ++at)
        if (!sees(step[at % 4 / 2], key + at / 4 * 8 + threadIdx.x % 4 * 2 + at % 2)) d[at] = -INFINITY;
    }
    softmax.weigh(d, given.scale_log2, factor);
  };
  const auto round = [&] {
    round_weights<Element, false>(d, p, rounded);
    softmax.rounded_sum[0].add(rounded[0]);
    softmax.rounded_sum[1].add(rounded[1]);
  };

  if constexpr (Split) {
    std::uint32_t rest[8][4];
    for (int i = 0; i < count; ++i) {
      keys.wait(i);
      keys.template start_product<Element>(d, q, i);
      hopper::products_wait<0>();
      hopper::settle(d);
      keys.release(i);
      weigh(i);
      round_weights<Element, true>(d, p, rounded);
      round_weights<Element, true>(d, rest, rounded);
      if (i > 0) rescale(o, factor);
      values.wait(i);
      hopper::products_begin();
      start_output<Element, HeadDim, stages>(o, p, values, i, i > 0);
      start_output<Element, HeadDim, stages>(o, rest, values, i, true);
      hopper::products_commit();
      hopper::products_wait<0>();
      hopper::settle(o);
      values.release(i);
    }
  } else if (count > 0) {
    keys.wait(0);
    keys.template start_product<Element>(d, q, 0);
    hopper::products_wait<0>();
    hopper::settle(d);
    keys.release(0);
    weigh(0);
    round();
    for (int i = 1; i < count; ++i) {
      keys.wait(i);
      keys.template start_product<Element>(d, q, i);
      values.wait(i - 1);
      hopper::products_begin();
      start_output<Element, HeadDim, stages>(o, p, values, i - 1, i > 1);
      hopper::products_commit();
      hopper::products_wait<1>();
      hopper::settle(d);
      keys.release(i);
      weigh(i);
      hopper::products_wait<0>();
      hopper::settle(o);
      values.release(i - 1);
      rescale(o, factor);
      round();
    }
    values.wait(count - 1);
    hopper::products_begin();
    start_output<Element, HeadDim, stages>(o, p, values, count - 1, count > 1);
    hopper::products_commit();
    hopper::products_wait<0>();
    hopper::settle(o);
    values.release(count - 1);
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    double sum = softmax.sum[half].total(), divisor = Split ? sum : softmax.rounded_sum[half].total();
    for (int offset = 1; offset <= 2; offset *= 2) {
      sum += __shfl_xor_sync(0xffffffffU, sum, offset);
      divisor += __shfl_xor_sync(0xffffffffU, divisor, offset);
    }
    const int row = mine + 8 * half;
    if (row >= rows) continue;
    const std::int64_t at = (static_cast<std::int64_t>(split) * gridDim.y + head) * rows + row;
    const bool seen = count > 0 && softmax.shift[half] != INFINITY;
    const float inverse = seen ? static_cast<float>(1 / divisor) : 0.0F;
    auto* target = reinterpret_cast<float2*>(output + at * HeadDim);
#pragma unroll
    for (int j = 0; j < HeadDim / 8; ++j)
      target[4 * j + threadIdx.x % 4] =
          seen ? make_float2(o[4 * j + 2 * half] * inverse, o[4 * j + 2 * half + 1] * inverse) : make_float2(0, 0);
    if (threadIdx.x % 4 == 0) log_sums[at] = seen ? static_cast<float>(log2(sum) - softmax.shift[half]) : -INFINITY;
  }
#else
  __trap();
#endif
}

// A block for each query row, a thread for each element: the parts, each weighed with its share of the sum of weights.
__global__ void join_parts(const float* partial_output, const float* log_sums, int splits, std::int64_t rows, int head_dim,
                           float* output, float* log_sum_exp) {
  const std::int64_t row = blockIdx.x;
  float top = -INFINITY;
  for (int split = 0; split < splits; ++split) top = fmaxf(top, log_sums[split * rows + row]);
  double sum = 0, total = 0;
  for (int split = 0; split < splits; ++split) {
    const float part = log_sums[split * rows + row];
    if (part == -INFINITY) continue;
    const double weight = exp2f(part - top);
    sum += weight;
    total += weight * partial_output[(split * rows + row) * head_dim + threadIdx.x];
  }
  output[row * head_dim + threadIdx.x] = static_cast<float>(total / sum);
  if (threadIdx.x == 0) log_sum_exp[row] = static_cast<float>((log2(sum) + top) * ln_of_2);
}

template <class Element, int HeadDim, bool Split>
void launch(const Element* query, const Element* key, const Element* value, const AttentionShape& shape, float* output,
            float* log_sum_exp, void* scratch, cudaStream_t stream) {
  const Cut cut = cut_of(shape);
  auto* partial = static_cast<float*>(scratch);
  float* log_sums = partial + cut.splits * cut.rows * HeadDim;
  const auto kernel = decode_attention_tensor_kernel<Element, HeadDim, Split>;
  constexpr int memory = 2 * hopper::StreamRing<HeadDim, 3 * 128 / HeadDim>::bytes;
  allow_shared_memory(kernel, memory);
  const auto map = [&](const Element* rows) {
    return hopper::map_rows(rows, std::is_same_v<Element, __nv_bfloat16>, HeadDim, shape.keys, shape.kv_heads,
                            shape.key_stride, hopper::stream_rows);
  };
  const dim3 grid(static_cast<unsigned>(cut.row_blocks), static_cast<unsigned>(shape.kv_heads),
                  static_cast<unsigned>(cut.splits));
  kernel<<<grid, hopper::stream_threads, memory, stream>>>(map(key), map(value), query, arguments_of(shape), partial,
                                                           log_sums);
  check_launch("decode_attention_tensor");
  join_parts<<<static_cast<unsigned>(cut.rows), HeadDim, 0, stream>>>(partial, log_sums, cut.splits, cut.rows, HeadDim,
                                                                      output, log_sum_exp);
  check_launch("join_parts");
}

}  // namespace

std::size_t decode_attention_scratch_bytes(const AttentionShape& shape) {
  const Cut cut = cut_of(shape);
  return static_cast<std::size_t>(cut.splits * cut.rows * (shape.head_dim + 1)) * sizeof(float);
}

template <class Element>
void decode_attention_plain(const Element* query, const Element* key, const Element* value, const AttentionShape& shape,
                            float* output, float* log_sum_exp, cudaStream_t stream) {
  if (shape.queries == 0) return;
  log_sum_exp_plain(query, key, shape, log_sum_exp, stream);
  const dim3 grid(static_cast<unsigned>((shape.queries + plain::tile - 1) / plain::tile),
                  static_cast<unsigned>(shape.query_heads),
                  static_cast<unsigned>((shape.head_dim + plain::tile - 1) / plain::tile));
  decode_attention_plain_kernel<<<grid, plain::threads, 0, stream>>>(query, key, value, log_sum_exp, arguments_of(shape),
                                                                     output);
  check_launch("decode_attention_plain");
}

template <class Element>
void decode_attention_tensor(const Element* query, const Element* key, const Element* value, const AttentionShape& shape,
                             float* output, float* log_sum_exp, void* scratch, cudaStream_t stream, bool split_weights) {
  if (shape.queries == 0) return;
  const auto run = shape.head_dim == 128 ? (split_weights ? launch<Element, 128, true> : launch<Element, 128, false>)
                                         : (split_weights ? launch<Element, 64, true> : launch<Element, 64, false>);
  run(query, key, value, shape, output, log_sum_exp, scratch, stream);
}

template <class Element>
void decode_attention(const Element* query, const Element* key, const Element* value, const AttentionShape& shape,
                      float* output, float* log_sum_exp, void* scratch, cudaStream_t stream, bool split_weights) {
  if constexpr (sizeof(Element) == 2) {
    if (hopper::supports(shape, query, key) && reinterpret_cast<std::uintptr_t>(value) % 16 == 0)
      return decode_attention_tensor(query, key, value, shape, output, log_sum_exp, scratch, stream, split_weights);
  }
  decode_attention_plain(query, key, value, shape, output, log_sum_exp, stream);
}

#define KVREPLAY_INSTANTIATE(Element)                                                                                   \
  template void decode_attention_plain(const Element*, const Element*, const Element*, const AttentionShape&, float*,   \
                                       float*, cudaStream_t);                                                           \
  template void decode_attention(const Element*, const Element*, const Element*, const AttentionShape&, float*, float*, \
                                 void*, cudaStream_t, bool);
KVREPLAY_INSTANTIATE(float)
KVREPLAY_INSTANTIATE(__half)
KVREPLAY_INSTANTIATE(__nv_bfloat16)
#undef KVREPLAY_INSTANTIATE
template void decode_attention_tensor(const __half*, const __half*, const __half*, const AttentionShape&, float*, float*,
                                      void*, cudaStream_t, bool);
template void decode_attention_tensor(const __nv_bfloat16*, const __nv_bfloat16*, const __nv_bfloat16*,
                                      const AttentionShape&, float*, float*, void*, cudaStream_t, bool);

}  // namespace kvreplay::cuda
