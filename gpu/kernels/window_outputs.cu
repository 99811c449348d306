#include "gpu/kernels/window_outputs.h"

#include "gpu/kernels/elements.cuh"
#include "gpu/kernels/removal_error.h"
#include "gpu/kernels/window_hopper.cuh"

namespace kvreplay::cuda {
namespace {

using hopper::slot_rows;
using hopper::tile_keys;
using hopper::unit_rows;
using hopper::WindowJob;

template <int HeadDim>
using Ring = hopper::TileRing<HeadDim, tile_keys, 3 * 128 / HeadDim>;

// Weights go into the second product times 2^14, so that small ones keep their precision in float16.
[[maybe_unused]] constexpr float weight_exponent = 14;  // only wgmma needs it
constexpr float weight_unit = 16384;
// Of a dominated row all others have at most 1 of their own sum, and the dominant key has more than 1.004.
[[maybe_unused]] constexpr float others_limit = 1.002F * weight_unit;

// As in the first pass (window_hopper.cu): fours of heads are a product of 64 rows for each of the two warpgroups; of one or
// two heads there is one product, and the warpgroups take turns with the tiles.
WindowJob outputs_job(const FusedWindow& window, int multiprocessors) {
  return hopper::make_job(window, multiprocessors, window.group > 2 ? 4 : 2);
}

#if KVREPLAY_HOPPER_CODE

// Weights, 32 columns of each of a thread's two rows, as the A of 8 products of 16 keys each (an accumulator's layout is
// that of A, 8 elements for a product): the sum of two 16-bit numbers.
template <class Element>
__device__ inline void split_weights(const float (&d)[64], std::uint32_t (&high)[8][4], std::uint32_t (&low)[8][4]) {
#pragma unroll
  for (int word = 0; word < 32; ++word) {
    const std::uint32_t pair = hopper::pack<Element>(d[2 * word], d[2 * word + 1]);
    const float2 rounded = hopper::unpack<Element>(pair);
    high[word / 4][word % 4] = pair;
    low[word / 4][word % 4] = hopper::pack<Element>(d[2 * word] - rounded.x, d[2 * word + 1] - rounded.y);
  }
}

#endif  // KVREPLAY_HOPPER_CODE

// partial [Hk · head blocks, splits, warpgroups, 64, d].
//
// Bound by reading keys and values; beside a tile's 3,600 cycles are 3,072 of the tensor cores at d = 128. The weights of
// one warpgroup are formed in the shadow of the other's products.
template <class Element, int HeadDim>
__global__ void __launch_bounds__(hopper::tile_threads, 1)
    outputs_kernel(const __grid_constant__ CUtensorMap key_map, const __grid_constant__ CUtensorMap value_map,
                   const Element* query, const __grid_constant__ WindowJob job, RowStatistics statistics,
                   std::int32_t* column, float* partial) {
#if KVREPLAY_HOPPER_CODE
  extern __shared__ unsigned char shared[];
  __shared__ std::uint64_t barriers[2 * Ring<HeadDim>::barrier_count];
  unsigned char* memory = hopper::aligned_tiles(shared);
  Ring<HeadDim> keys(memory, barriers), values(memory + Ring<HeadDim>::bytes, barriers + Ring<HeadDim>::barrier_count);
  const bool alternate = job.heads_of_block == 2;
  if (threadIdx.x == 0) {
    keys.init(alternate ? 4 : 8);
    values.init(alternate ? 4 : 8);
  }
  __syncthreads();
  const hopper::Part part(job);
  const int kv_head = static_cast<int>(blockIdx.y) / job.head_blocks;
  const int first_head = static_cast<int>(blockIdx.y) % job.head_blocks * job.heads_of_block;
  const int warpgroup = __shfl_sync(all_lanes, static_cast<int>(threadIdx.x) / hopper::warpgroup_threads, 0);
  // The latest keys first: the pass before leaves those in the second-level cache.
  const auto first_key = [&](int i) { return (part.begin + part.count - 1 - i) * tile_keys; };

  if (warpgroup == 0) {
    hopper::fewer_registers<24>();
    if (threadIdx.x == 0)
      for (int i = 0; i < part.count; ++i) {
        keys.fill(i, &key_map, first_key(i), kv_head);
        values.fill(i, &value_map, first_key(i), kv_head);
      }
    return;
  }

  hopper::more_registers<240>();
  const int mine = alternate ? 0 : (warpgroup - 1) * unit_rows;
  int row[2];  // of [Hq, W], or -1
  float shift[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = mine + hopper::lane_row() + half * 8, head = first_head + at / slot_rows, w = at % slot_rows;
    row[half] = head < job.group && w < job.window ? (kv_head * job.group + head) * job.window + w : -1;
    shift[half] = -INFINITY;
    if (row[half] < 0) continue;
    const float inverse = statistics.inverse[row[half]];
    const float sum = inverse > dominance ? fmaxf(statistics.complement[row[half]], least_rest) : 1.0F;
    shift[half] = log2f(inverse / sum) + weight_exponent - statistics.top[row[half]];
  }
  std::uint32_t q[HeadDim / 16][4], high[8][4], low[8][4];
  const auto row_pointer = [&](int r) { return r < 0 ? nullptr : query + static_cast<std::int64_t>(r) * HeadDim; };
  hopper::load_rows<Element, HeadDim>(q, row_pointer(row[0]), row_pointer(row[1]));

  float d[64], o[HeadDim / 2];
#pragma unroll
  for (float& x : o) x = 0;
  const auto start_logits = [&](int i) {
    keys.wait(i);
    const std::uint32_t address = keys.address(i);
    hopper::products_begin();
#pragma unroll
    for (int k = 0; k < HeadDim / 16; ++k)
      hopper::multiply<Element, 0>(d, q[k], hopper::rows_transposed(address + k / 4 * keys.piece_bytes + k % 4 * 32),
                                   k == 0 ? 0 : 1);
    hopper::products_commit();
  };
  const auto weigh = [&](int i) {
    const int first = first_key(i) + static_cast<int>(threadIdx.x) % 4 * 2;
    if (!job.all_seen(first_key(i), tile_keys)) {
#pragma unroll
      for (int at = 0; at < 64; ++at)
        if (!job.seen((mine + hopper::lane_row() + at % 4 / 2 * 8) % slot_rows, first + at / 4 * 8 + at % 2))
          d[at] = -INFINITY;
    }
    float top = 0;
#pragma unroll
    for (int at = 0; at < 64; ++at) {
      d[at] = hopper::exp2_unit(fmaf(d[at], job.scale, shift[at % 4 / 2]));
      top = fmaxf(top, d[at]);
    }
    if (top > others_limit) {
#pragma unroll
      for (int at = 0; at < 64; ++at)
        if (d[at] > others_limit) {
          d[at] = 0;
          column[row[at % 4 / 2]] = first + at / 4 * 8 + at % 2;
        }
    }
    split_weights<Element>(d, high, low);
  };
  const auto start_output = [&](int i) {
    values.wait(i);
    const std::uint32_t address = values.address(i);
    hopper::products_begin();
#pragma unroll
    for (int k = 0; k < 8; ++k)
      hopper::multiply<Element, 1>(o, high[k], hopper::rows_as_they_are(address + k * 2048, values.piece_bytes), 1);
#pragma unroll
    for (int k = 0; k < 8; ++k)
      hopper::multiply<Element, 1>(o, low[k], hopper::rows_as_they_are(address + k * 2048, values.piece_bytes), 1);
    hopper::products_commit();
  };
  for (int i = alternate ? warpgroup - 1 : 0; i < part.count; i += alternate ? 2 : 1) {
    start_logits(i);
    hopper::products_wait<0>();
    hopper::settle(d);
    keys.release(i);
    weigh(i);
    start_output(i);
    hopper::products_wait<0>();
    hopper::settle(o);
    values.release(i);
  }

  partial += ((static_cast<std::int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * 2 + warpgroup - 1) * unit_rows * HeadDim;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    auto* target = reinterpret_cast<float2*>(partial + (hopper::lane_row() + half * 8) * HeadDim);
#pragma unroll
    for (int j = 0; j < HeadDim / 8; ++j)
      target[4 * j + threadIdx.x % 4] = make_float2(o[4 * j + 2 * half], o[4 * j + 2 * half + 1]);
  }
#else
  __trap();
#endif
}

// A block a row, a thread a dimension. Bound by latency.
template <class Element>
__global__ void join_kernel(const __grid_constant__ WindowJob job, RowStatistics statistics, const Element* value,
                            std::int64_t head_stride, const float* partial, WindowOutputs out) {
  const int r = static_cast<int>(blockIdx.x), dim = static_cast<int>(blockDim.x), i = static_cast<int>(threadIdx.x);
  const int w = r % job.window, head = r / job.window, in_group = head % job.group, kv_head = head / job.group;
  const int slot = in_group % job.heads_of_block;
  const int pair = kv_head * job.head_blocks + in_group / job.heads_of_block;
  const bool alternate = job.heads_of_block == 2;
  const int parts = alternate ? 2 : 1;
  double total = 0;
#pragma unroll 8
  for (int p = 0; p < job.splits * parts; ++p) {
    const int warpgroup = alternate ? p % 2 : slot / 2;
    const std::int64_t unit = (static_cast<std::int64_t>(pair) * job.splits + p / parts) * 2 + warpgroup;
    total += partial[(unit * unit_rows + slot % 2 * slot_rows + w) * dim + i];
  }
  const auto others = static_cast<float>(total / weight_unit);
  const float inverse = statistics.inverse[r];
  const int column = inverse > dominance ? out.column[r] : -1;
  float output = others;
  if (column >= 0)
    output = fmaf(inverse, to_float(value[kv_head * head_stride + static_cast<std::int64_t>(column) * dim + i]),
                  statistics.complement[r] * others);
  out.others[static_cast<std::int64_t>(r) * dim + i] = others;
  out.output[static_cast<std::int64_t>(r) * dim + i] = output;
}

}  // namespace

std::int64_t window_outputs_scratch_bytes(const FusedWindow& window, int multiprocessors) {
  const WindowJob job = outputs_job(window, multiprocessors);
  return static_cast<std::int64_t>(job.kv_heads) * job.head_blocks * job.splits * 2 * unit_rows * window.dim *
         static_cast<std::int64_t>(sizeof(float));
}

void launch_window_outputs(const FusedWindow& window, const RowStatistics& statistics, const void* value,
                           std::int64_t value_head_stride, const WindowOutputs& out, void* scratch, int multiprocessors,
                           cudaStream_t stream) {
  const WindowJob job = outputs_job(window, multiprocessors);
  auto* partial = static_cast<float*>(scratch);
  check(cudaMemsetAsync(out.column, 0xff, static_cast<std::size_t>(window.shape.rows) * sizeof(std::int32_t), stream),
        "clearing dominant columns");
  hopper::dispatch(window, [&](auto element, auto dim) {
    using Element = decltype(element);
    const auto kernel = outputs_kernel<Element, dim.value>;
    constexpr int bytes = hopper::tile_alignment + 2 * Ring<dim.value>::bytes;
    allow_shared_memory(kernel, bytes);
    kernel<<<hopper::grid_of(job), hopper::tile_threads, bytes, stream>>>(
        hopper::map_columns(window, window.key, window.key_head_stride, tile_keys),
        hopper::map_columns(window, value, value_head_stride, tile_keys), static_cast<const Element*>(window.query), job,
        statistics, out.column, partial);
    check_launch("outputs of window attention (wgmma)");
    join_kernel<Element><<<static_cast<unsigned>(window.shape.rows), dim.value, 0, stream>>>(
        job, statistics, static_cast<const Element*>(value), value_head_stride, partial, out);
    check_launch("joining outputs of window attention");
  });
}

}  // namespace kvreplay::cuda
