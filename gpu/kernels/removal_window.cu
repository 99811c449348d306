#include "gpu/kernels/removal_window.h"

#include <vector>

#include "gpu/kernels/elements.cuh"
#include "gpu/kernels/smoothing.h"
#include "gpu/kernels/window_hopper.cuh"
#include "gpu/kernels/window_hopper.h"

namespace kvreplay::cuda {
namespace {

using hopper::slot_rows;
using hopper::WindowJob;
using Row = PreparedRemoval::Row;

constexpr int tile_keys = 64;                             // of a tile: the rows of one product
[[maybe_unused]] constexpr float least_share = 0x1p-12F;  // of ‖R v - c̄‖², below which a squared distance is computed again

WindowJob job_of(const WindowRemoval& removal, int multiprocessors) {
  const int group = removal.window.group;
  return hopper::make_job(removal.window, multiprocessors, group > 2 ? 4 : group, tile_keys);
}

// Values from position `low` on.
const void* first_value(const WindowRemoval& removal) {
  return static_cast<const std::byte*>(removal.removal.value) - removal.window.shape.cut * removal.removal.dim * 2;
}

// ---- preparing ---------------------------------------------------------------------------------------------------------

constexpr int rows_of_block = 8, most_rows = PreparedRemoval::slot_rows;

// Sums over the block of `Count` numbers of each thread.
template <int Count, int Threads>
__device__ void block_sums(float (&values)[Count], float (&scratch)[Count][Threads / warp_size]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) {
    const float sum = warp_sum(values[i]);
    if (threadIdx.x % warp_size == 0) scratch[i][threadIdx.x / warp_size] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < Count; ++i) {
    values[i] = 0;
#pragma unroll
    for (int w = 0; w < Threads / warp_size; ++w) values[i] += scratch[i][w];
  }
  __syncthreads();
}

template <int Count, int Threads>
__device__ void block_maxima(float (&values)[Count], float (&scratch)[Count][Threads / warp_size]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) {
    for (int offset = warp_size / 2; offset > 0; offset /= 2)
      values[i] = fmaxf(values[i], __shfl_xor_sync(all_lanes, values[i], offset));
    if (threadIdx.x % warp_size == 0) scratch[i][threadIdx.x / warp_size] = values[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < Count; ++i)
#pragma unroll
    for (int w = 0; w < Threads / warp_size; ++w) values[i] = fmaxf(values[i], scratch[i][w]);
  __syncthreads();
}

// A block has 8 rows of one head, a thread one dimension: its row of R, then its column. Bound by latency.
template <class Element, int Dim>
__global__ void __launch_bounds__(Dim)
    prepare_kernel(const __grid_constant__ WindowRemoval job, const __grid_constant__ WindowOutputs outputs,
                   const Element* value, const __grid_constant__ PreparedRemoval out) {
  constexpr int stride = Dim + 2;  // elements; a thread's row starts in a bank of its own
  constexpr int vectors = 1 + 2 * rows_of_block;
  __shared__ alignas(16) __half factor[Dim * stride];
  __shared__ alignas(16) float vector[vectors][Dim];  // ō; o - ō of every row; mean of the others less the dominant value
  __shared__ float scratch[rows_of_block * 3][Dim / warp_size];
  const int head = static_cast<int>(blockIdx.x), first = static_cast<int>(blockIdx.y) * rows_of_block;
  const int i = static_cast<int>(threadIdx.x), window = job.window.shape.window;
  const std::int64_t row0 = static_cast<std::int64_t>(head) * window;
  const auto* pairs = static_cast<const __half2*>(job.removal.factor) + static_cast<std::int64_t>(head) * Dim * Dim / 2;
#pragma unroll 8
  for (int at = i; at < Dim * Dim / 2; at += Dim)
    *reinterpret_cast<__half2*>(factor + at / (Dim / 2) * stride + at % (Dim / 2) * 2) = pairs[at];
  float mean = 0;
#pragma unroll 8
  for (int w = 0; w < window; ++w) mean += outputs.output[(row0 + w) * Dim + i];
  mean /= static_cast<float>(window);
  vector[0][i] = mean;
  const auto dominated = [&](int w) { return w < window && outputs.column[row0 + w] >= 0; };
  for (int j = 0; j < rows_of_block; ++j) {
    const int w = first + j;
    vector[1 + j][i] = w < window ? outputs.output[(row0 + w) * Dim + i] - mean : 0.0F;
    float difference = 0;
    if (dominated(w)) {
      const std::int64_t at =
          head / job.window.group * job.removal.head_stride + static_cast<std::int64_t>(outputs.column[row0 + w]) * Dim + i;
      difference = outputs.others[(row0 + w) * Dim + i] - to_float(value[at]);
    }
    vector[1 + rows_of_block + j][i] = difference;
  }
  __syncthreads();

  float x[vectors] = {};
#pragma unroll 4
  for (int k = 0; k < Dim / 2; ++k) {
    const float2 r = __half22float2(*reinterpret_cast<const __half2*>(factor + i * stride + 2 * k));
#pragma unroll
    for (int j = 0; j < vectors; ++j) {
      const float2 v = *reinterpret_cast<const float2*>(&vector[j][2 * k]);
      x[j] = fmaf(r.x, v.x, fmaf(r.y, v.y, x[j]));
    }
  }
  const float unit = job.removal.factor_unit[head];
  if (first == 0) out.center[static_cast<std::int64_t>(head) * Dim + i] = x[0] * job.removal.value_scale;
  const float center = x[0] * unit;
  float sums[rows_of_block * 3];  // offset, ‖R o‖², ‖R (o' - v)‖² of each row
  __syncthreads();
#pragma unroll
  for (int j = 0; j < rows_of_block; ++j) {
    const float delta = x[1 + j] * unit, point = center + delta, apart = x[1 + rows_of_block + j] * unit;
    vector[j][i] = delta;
    sums[j] = delta * fmaf(2.0F, center, delta);
    sums[rows_of_block + j] = point * point;
    sums[2 * rows_of_block + j] = apart * apart;
    if (first + j < window) out.point[(row0 + first + j) * Dim + i] = point;
  }
  block_sums<rows_of_block * 3, Dim>(sums, scratch);  // synchronises

  float direction[rows_of_block] = {}, largest[rows_of_block];
#pragma unroll 4
  for (int m = 0; m < Dim; ++m) {
    const float r = __half2float(factor[m * stride + i]);
#pragma unroll
    for (int j = 0; j < rows_of_block; ++j) direction[j] = fmaf(r, vector[j][m], direction[j]);
  }
#pragma unroll
  for (int j = 0; j < rows_of_block; ++j) {
    direction[j] *= unit;
    largest[j] = fabsf(direction[j]);
  }
  block_maxima<rows_of_block, Dim>(largest, reinterpret_cast<float(&)[rows_of_block][Dim / warp_size]>(scratch));
  auto* rounded = static_cast<Element*>(out.direction) + static_cast<std::int64_t>(head) * 2 * most_rows * Dim;
#pragma unroll
  for (int j = 0; j < rows_of_block; ++j) {
    const int w = first + j;
    // The largest near 2^10: what the rounding leaves of it is far above the smallest float16.
    const int exponent = largest[j] > 0 ? max(-100, min(100, 10 - ilogbf(largest[j]))) : 0;
    const float scaled = direction[j] * ldexpf(1.0F, exponent);
    const auto high = static_cast<Element>(scaled);
    rounded[w * Dim + i] = high;
    rounded[(most_rows + w) * Dim + i] = static_cast<Element>(scaled - to_float(high));
    if (i != j) continue;
    Row row{};
    row.inverse_length = 1;
    row.dominant = -1;
    if (w < window) {
      row.offset = sums[j];
      row.slope = -2 * ldexpf(1.0F, -exponent);
      if (job.normalize) row.inverse_length = 1 / sqrtf(sums[rows_of_block + j]);
      if (dominated(w)) row.dominant = job.statistics.inverse[row0 + w] * sqrtf(sums[2 * rows_of_block + j]);
    }
    out.row[head * most_rows + w] = row;
  }
}

// ---- errors ------------------------------------------------------------------------------------------------------------

#if KVREPLAY_HOPPER_CODE

__device__ inline float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float square_root(float x) {
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#endif  // KVREPLAY_HOPPER_CODE

template <int HeadDim>
using Ring = hopper::TileRing<HeadDim, tile_keys, 3 * 128 / HeadDim>;

// Bytes of 64 columns of a block's queries or directions.
template <int Heads>
constexpr int piece_bytes = Heads* slot_rows* hopper::piece_columns * 2;

// Shared memory of a block: keys, values, queries, directions.
template <int HeadDim, int Heads>
struct Memory {
  static constexpr int rows = Heads * slot_rows * HeadDim * 2;
  static constexpr int values = Ring<HeadDim>::bytes;
  static constexpr int queries = values + Ring<HeadDim>::bytes;
  static constexpr int high = queries + rows, low = high + rows;
  static constexpr int bytes = hopper::tile_alignment + low + rows;
};

// The sum's factor of each row.
__device__ inline float row_weight(const RowWeights& weights, float share, const Row& row, int w) {
  return weights.value[w] * share * row.inverse_length;
}

// Numbers of the rows of a block's heads.
template <int Heads>
struct RowTable {
  // Read two entries at a time.
  alignas(16) float2 weigh[Heads * slot_rows];  // a = exp2(logit + x); the row's weight in the sum: y
  alignas(16) float2 place[Heads * slot_rows];  // offset, slope
  float dominant[Heads * slot_rows];

  __device__ void fill(const WindowJob& job, int kv_head, int first_head, const RowStatistics& statistics, const Row* rows,
                       const RowWeights& weights, float share) {
    for (int at = static_cast<int>(threadIdx.x); at < Heads * slot_rows; at += hopper::tile_threads) {
      const int in_group = first_head + at / slot_rows, w = at % slot_rows;
      weigh[at] = {-INFINITY, 0};
      place[at] = {0, 0};
      dominant[at] = -1;
      if (in_group >= job.group || w >= job.window) continue;
      const int head = kv_head * job.group + in_group, r = head * job.window + w;
      const Row row = rows[head * slot_rows + w];
      weigh[at] = {log2f(statistics.inverse[r]) - statistics.top[r], row_weight(weights, share, row, w)};
      place[at] = {row.offset, row.slope};
      dominant[at] = row.dominant;
    }
  }
};

// A block has up to four query heads of one KV head and one part of the keys; the two computing warpgroups take turns with
// the tiles. Of a tile, keys · queriesᵀ and values · directionsᵀ are under way together, and odds are formed from the first
// while the second still runs. Keys are the rows of the products, 32 columns for each head: element at of a thread's is head
// at / 16, window row at / 4 % 4 · 8 + 2 (lane % 4) + at % 2, key lane_row() + 8 (at / 2 % 2).
//
// Bound by the tensor cores and the special function units, 1,536 cycles each for a tile at d = 128, beside 900 for the
// rest.
template <class Element, int HeadDim, int Heads, RemovalSums Form>
__global__ void __launch_bounds__(hopper::tile_threads, 1)
    errors_kernel(const __grid_constant__ CUtensorMap key_map, const __grid_constant__ CUtensorMap value_map,
                  const __grid_constant__ CUtensorMap query_map, const __grid_constant__ CUtensorMap direction_map,
                  const __grid_constant__ WindowJob job, RowStatistics statistics, const Row* rows, const float* distance,
                  const __grid_constant__ RowWeights weights, float share, float* out, unsigned char* flags) {
#if KVREPLAY_HOPPER_CODE
  using Layout = Memory<HeadDim, Heads>;
  constexpr int count = Heads * 16;
  extern __shared__ unsigned char shared[];
  __shared__ std::uint64_t barriers[2 * Ring<HeadDim>::barrier_count + 1];
  __shared__ RowTable<Heads> table;
  std::uint64_t* rows_there = barriers + 2 * Ring<HeadDim>::barrier_count;
  unsigned char* memory = hopper::aligned_tiles(shared);
  Ring<HeadDim> keys(memory, barriers), values(memory + Layout::values, barriers + Ring<HeadDim>::barrier_count);
  const int kv_head = static_cast<int>(blockIdx.y) / job.head_blocks;
  const int first_head = static_cast<int>(blockIdx.y) % job.head_blocks * Heads;
  table.fill(job, kv_head, first_head, statistics, rows, weights, share);
  if (threadIdx.x == 0) {
    hopper::barrier_init(rows_there, 1);
    keys.init(4);
    values.init(4);
  }
  __syncthreads();
  const hopper::Part part(job);
  const int warpgroup = __shfl_sync(all_lanes, static_cast<int>(threadIdx.x) / hopper::warpgroup_threads, 0);

  if (warpgroup == 0) {
    hopper::fewer_registers<24>();
    if (threadIdx.x == 0) {
      hopper::barrier_expect(rows_there, 3 * Layout::rows);
      for (int head = 0; head < Heads; ++head)
        for (int column = 0; column < HeadDim; column += hopper::piece_columns) {
          const int at = column / hopper::piece_columns * piece_bytes<Heads> + head * slot_rows * hopper::piece_columns * 2;
          const int query_head = kv_head * job.group + first_head + head;
          hopper::copy_box(memory + Layout::queries + at, &query_map, column, 0, query_head, rows_there);
          hopper::copy_box(memory + Layout::high + at, &direction_map, column, 0, query_head, rows_there);
          hopper::copy_box(memory + Layout::low + at, &direction_map, column, slot_rows, query_head, rows_there);
        }
      for (int i = 0; i < part.count; ++i) {
        keys.fill(i, &key_map, (part.begin + i) * tile_keys, kv_head);
        values.fill(i, &value_map, (part.begin + i) * tile_keys, kv_head);
      }
    }
    return;
  }

  hopper::more_registers<240>();
  const int lane = static_cast<int>(threadIdx.x) % warp_size, n = job.columns - job.cut;
  const int block_head = kv_head * job.group + first_head;
  const std::uint32_t base = hopper::shared_address(memory);
  float l[count] = {}, y[count] = {};  // logits, then odds times the row's weight; products with directions, then squares
  float square[Heads][2];              // ‖R v - center‖² of the thread's two keys
  bool dominated = false;              // some weight of the warp's is above 1/2
  const auto load_squares = [&](int first) {
#pragma unroll
    for (int head = 0; head < Heads; ++head)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int column = first + hopper::lane_row() + r * 8 - job.cut;
        const bool inside = column >= 0 && column < n && first_head + head < job.group;
        const float x = inside ? distance[static_cast<std::int64_t>(block_head + head) * n + column] : 0.0F;
        square[head][r] = x * x;
      }
  };
  const auto start = [&](float(&d)[count], std::uint32_t a, int b, bool accumulate) {
#pragma unroll
    for (int k = 0; k < HeadDim / 16; ++k)
      hopper::multiply_shared<Element>(d, hopper::rows_transposed(a + k / 4 * Ring<HeadDim>::piece_bytes + k % 4 * 32),
                                       hopper::rows_transposed(base + b + k / 4 * piece_bytes<Heads> + k % 4 * 32),
                                       accumulate || k > 0 ? 1 : 0);
  };
  // use(at of the first of two neighbouring window rows, their table entries) for both keys of the thread.
  const auto for_pairs = [&](const float2* entries, auto&& use) {
#pragma unroll
    for (int head = 0; head < Heads; ++head)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float4 entry = *reinterpret_cast<const float4*>(entries + head * slot_rows + j * 8 + lane % 4 * 2);
#pragma unroll
        for (int r = 0; r < 2; ++r) use(head * 16 + j * 4 + r * 2, entry);
      }
  };
  const auto table_row = [&](int at) { return at / 16 * slot_rows + at / 4 % 4 * 8 + lane % 4 * 2 + at % 2; };
  const auto form_odds = [&](int first) {
    if (!job.all_seen(first, tile_keys)) {
#pragma unroll
      for (int at = 0; at < count; ++at)
        if (!job.seen(table_row(at) % slot_rows, first + hopper::lane_row() + at / 2 % 2 * 8)) l[at] = -INFINITY;
    }
    bool above = false;
    for_pairs(table.weigh, [&](int at, const float4& entry) {
      const float a = hopper::exp2_unit(fmaf(l[at], job.scale, entry.x));
      const float b = hopper::exp2_unit(fmaf(l[at + 1], job.scale, entry.z));
      l[at] = a * entry.y * reciprocal(1 - a);
      l[at + 1] = b * entry.w * reciprocal(1 - b);
      above = above || a > 0.5F || b > 0.5F;
    });
    dominated = __any_sync(all_lanes, above);
    if (!dominated) return;
      // A dominant key's contribution with a minus sign. Its weight may have been rounded to 1, or above.
#pragma unroll
    for (int at = 0; at < count; ++at) {
      const float weight = table.weigh[table_row(at)].y, error = table.dominant[table_row(at)];
      if (!(l[at] >= 0 && l[at] <= weight) && error >= 0) l[at] = -(weight * error);
    }
  };
  // Whether a squared distance of the warp's is to be computed again.
  const auto form_squares = [&] {
    bool small = dominated;
    for_pairs(table.place, [&](int at, const float4& entry) {
      const float own = square[at / 16][at / 2 % 2], least = own * least_share;
      y[at] = fmaf(y[at], entry.y, own + entry.x);
      y[at + 1] = fmaf(y[at + 1], entry.w, own + entry.z);
      small = small || y[at] < least || y[at + 1] < least;
    });
    if (!__any_sync(all_lanes, small)) return false;
    bool again = false;
#pragma unroll
    for (int at = 0; at < count; ++at) {
      if (l[at] < 0) {
        l[at] = -l[at];
        y[at] = 1;
      } else {
        again = again || (l[at] > 0 && y[at] < square[at / 16][at / 2 % 2] * least_share);
      }
    }
    return __any_sync(all_lanes, again) != 0;
  };
  const auto error = [&](int at) { return l[at] * square_root(fmaxf(y[at], 0.0F)); };
  const auto write = [&](int first) {
    const int column = first + hopper::lane_row() - job.cut;
    if constexpr (Form == RemovalSums::rows) {
#pragma unroll
      for (int at = 0; at < count; ++at) {
        const int c = column + at / 2 % 2 * 8, w = table_row(at) % slot_rows, head = at / 16;
        if (c >= 0 && c < n && w < job.window && first_head + head < job.group)
          out[(static_cast<std::int64_t>(block_head + head) * job.window + w) * n + c] = error(at);
      }
    } else {
      constexpr int summed = Form == RemovalSums::group ? 2 : Heads * 2;  // number h · 2 + r
      using Sums = hopper::QuadSums<summed>;
      float sum[summed] = {};
#pragma unroll
      for (int at = 0; at < count; ++at) sum[(at / 16 * 2 + at / 2 % 2) % summed] += error(at);
      Sums::reduce(sum, lane);
#pragma unroll
      for (int k = 0; k < Sums::kept; ++k) {
        const int number = Sums::source(lane) + k, c = column + number % 2 * 8, head = number / 2;
        const std::int64_t row = Form == RemovalSums::group ? static_cast<int>(blockIdx.y) : block_head + head;
        if (Sums::writes(lane) && c >= 0 && c < n && first_head + head < job.group) out[row * n + c] = sum[k];
      }
    }
  };

  hopper::barrier_wait(rows_there, 0);
  for (int i = warpgroup - 1; i < part.count; i += 2) {
    const int tile = part.begin + i, first = tile * tile_keys;
    load_squares(first);
    keys.wait(i);
    hopper::products_begin();
    start(l, keys.address(i), Layout::queries, false);
    hopper::products_commit();
    values.wait(i);
    hopper::products_begin();
    start(y, values.address(i), Layout::high, false);
    start(y, values.address(i), Layout::low, true);
    hopper::products_commit();
    hopper::products_wait<1>();
    hopper::settle(l);
    keys.release(i);
    form_odds(first);
    hopper::products_wait<0>();
    hopper::settle(y);
    values.release(i);
    const bool again = form_squares();
    if (lane == 0)
      flags[(static_cast<std::int64_t>(blockIdx.y) * job.tiles + tile) * 4 + threadIdx.x % hopper::warpgroup_threads / 32] =
          again ? 1 : 0;
    write(first);
  }
#else
  __trap();
#endif
}

// ---- the plain form ----------------------------------------------------------------------------------------------------

constexpr int plain_warps = 8, plain_threads = plain_warps * warp_size;

struct PlainJob {
  WindowJob window;
  RowStatistics statistics;
  PreparedRemoval prepared;
  const __half* factor;
  const float* factor_unit;
  std::int64_t key_stride, value_stride;  // elements from one KV head to the next
  RowWeights weights;
  float share;
};

// Error of a window row (lane) for one key: its logits and squared distances are sums over the warp.
template <class Element, int Dim>
__device__ float plain_error(const PlainJob& job, int head, int key, const float (&x)[Dim / 32], const Element* query,
                             const Element* key_row) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  float k[Dim / 32], logit = 0, squared = 0;
#pragma unroll
  for (int m = 0; m < Dim / 32; ++m) k[m] = to_float(key_row[m * 32 + lane]);
  for (int w = 0; w < job.window.window; ++w) {
    const std::int64_t row = (static_cast<std::int64_t>(head) * job.window.window + w) * Dim + lane;
    float dot = 0, apart = 0;
#pragma unroll
    for (int m = 0; m < Dim / 32; ++m) {
      const float difference = x[m] - job.prepared.point[row + m * 32];
      dot = fmaf(k[m], to_float(query[row + m * 32]), dot);
      apart = fmaf(difference, difference, apart);
    }
    dot = warp_sum(dot);
    apart = warp_sum(apart);
    if (lane == w) logit = dot, squared = apart;
  }
  if (lane >= job.window.window || !job.window.seen(lane, key)) return 0;
  const int r = head * job.window.window + lane;
  const Row row = job.prepared.row[head * slot_rows + lane];
  const float a = exp2f(logit * job.window.scale - job.statistics.top[r]) * job.statistics.inverse[r];
  const float error = a > 0.5F && row.dominant >= 0 ? row.dominant : a / (1 - a) * sqrtf(squared);
  return row_weight(job.weights, job.share, row, lane) * error;
}

// A warp has 8 keys of a tile, a lane the window's rows. Tiles whose flags are 0 are left as they are (flags null: none).
// Bound by the sums over lanes, about 2,500 instructions for each key and head.
template <class Element, int Dim, RemovalSums Form>
__global__ void __launch_bounds__(plain_threads)
    plain_kernel(const __grid_constant__ PlainJob job, const Element* query, const Element* key, const Element* value,
                 const unsigned* flags, float* out) {
  constexpr int stride = Dim + 2, keys_of_warp = tile_keys / plain_warps;
  __shared__ alignas(16) __half factor[Dim * stride];
  __shared__ alignas(16) float vector[plain_warps][Dim];
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  const WindowJob& window = job.window;
  const int n = window.columns - window.cut;
  for (int t = static_cast<int>(blockIdx.x); t < window.kv_heads * window.head_blocks * window.tiles;
       t += static_cast<int>(gridDim.x)) {
    if (flags != nullptr && flags[t] == 0) continue;
    const int pair = t / window.tiles, kv_head = pair / window.head_blocks;
    const int first_head = pair % window.head_blocks * window.heads_of_block;
    const int first = t % window.tiles * tile_keys + warp * keys_of_warp;
    float total[keys_of_warp] = {};
    for (int h = first_head; h < min(first_head + window.heads_of_block, window.group); ++h) {
      const int head = kv_head * window.group + h;
      const auto* pairs = reinterpret_cast<const __half2*>(job.factor) + static_cast<std::int64_t>(head) * Dim * Dim / 2;
      __syncthreads();
      for (int at = static_cast<int>(threadIdx.x); at < Dim * Dim / 2; at += plain_threads)
        *reinterpret_cast<__half2*>(factor + at / (Dim / 2) * stride + at % (Dim / 2) * 2) = pairs[at];
      __syncthreads();
#pragma unroll
      for (int j = 0; j < keys_of_warp; ++j) {
        const int column = first + j - window.cut;
        if (column < 0 || column >= n) continue;
        const Element* v = value + kv_head * job.value_stride + static_cast<std::int64_t>(first + j) * Dim;
        __syncwarp();
        for (int i = lane; i < Dim; i += warp_size) vector[warp][i] = to_float(v[i]);
        __syncwarp();
        float x[Dim / 32] = {};
#pragma unroll 4
        for (int k = 0; k < Dim; ++k)
#pragma unroll
          for (int m = 0; m < Dim / 32; ++m)
            x[m] = fmaf(__half2float(factor[(m * 32 + lane) * stride + k]), vector[warp][k], x[m]);
#pragma unroll
        for (int m = 0; m < Dim / 32; ++m) x[m] *= job.factor_unit[head];
        const float error = plain_error<Element, Dim>(
            job, head, first + j, x, query, key + kv_head * job.key_stride + static_cast<std::int64_t>(first + j) * Dim);
        if constexpr (Form == RemovalSums::rows) {
          if (lane < window.window) out[(static_cast<std::int64_t>(head) * window.window + lane) * n + column] = error;
        } else {
          const float sum = warp_sum(error);
          if (Form == RemovalSums::heads && lane == 0) out[static_cast<std::int64_t>(head) * n + column] = sum;
          total[j] += sum;
        }
      }
    }
    if constexpr (Form == RemovalSums::group) {
#pragma unroll
      for (int j = 0; j < keys_of_warp; ++j) {
        const int column = first + j - window.cut;
        if (lane == 0 && column >= 0 && column < n) out[static_cast<std::int64_t>(pair) * n + column] = total[j];
      }
    }
  }
}

// ---- launches ----------------------------------------------------------------------------------------------------------

std::int64_t flag_bytes(const WindowJob& job) {
  return (static_cast<std::int64_t>(job.kv_heads) * job.head_blocks * job.tiles * 4 + 15) / 16 * 16;
}

float share_of(const WindowJob& job, RemovalSums form) {
  return form == RemovalSums::group ? 1 / static_cast<float>(job.group) : 1.0F;
}

// body(form) with the form as a constant.
template <class Body>
void with_form(RemovalSums form, Body&& body) {
  if (form == RemovalSums::group)
    body(std::integral_constant<RemovalSums, RemovalSums::group>{});
  else if (form == RemovalSums::heads)
    body(std::integral_constant<RemovalSums, RemovalSums::heads>{});
  else
    body(std::integral_constant<RemovalSums, RemovalSums::rows>{});
}

void launch_errors(const WindowRemoval& removal, const PreparedRemoval& prepared, const RowWeights& weights,
                   RemovalSums form, float* out, unsigned char* flags, int multiprocessors, cudaStream_t stream) {
  const WindowJob job = job_of(removal, multiprocessors);
  const FusedWindow& window = removal.window;
  const CUtensorMap keys = hopper::map_columns(window, window.key, window.key_head_stride, tile_keys);
  const CUtensorMap values = hopper::map_columns(window, first_value(removal), removal.removal.head_stride, tile_keys);
  const CUtensorMap directions = hopper::map_rows(prepared.direction, hopper::is_bfloat16(window), window.dim, 2 * most_rows,
                                                  window.kv_heads * window.group, 2 * most_rows, slot_rows);
  hopper::dispatch_heads(window, job, [&](auto element, auto dim, auto heads) {
    with_form(form, [&](auto sums) {
      const auto kernel = errors_kernel<decltype(element), dim.value, heads.value, sums.value>;
      constexpr int bytes = Memory<dim.value, heads.value>::bytes;
      allow_shared_memory(kernel, bytes);
      kernel<<<hopper::grid_of(job), hopper::tile_threads, bytes, stream>>>(
          keys, values, hopper::map_queries(window), directions, job, removal.statistics, prepared.row, prepared.distance,
          weights, share_of(job, form), out, flags);
    });
  });
  check_launch("removal errors of the window's rows (wgmma)");
}

void launch_plain(const WindowRemoval& removal, const PreparedRemoval& prepared, const RowWeights& weights, RemovalSums form,
                  const unsigned* flags, float* out, int multiprocessors, cudaStream_t stream) {
  PlainJob job{};
  job.window = job_of(removal, multiprocessors);
  job.statistics = removal.statistics;
  job.prepared = prepared;
  job.factor = static_cast<const __half*>(removal.removal.factor);
  job.factor_unit = removal.removal.factor_unit;
  job.key_stride = removal.window.key_head_stride;
  job.value_stride = removal.removal.head_stride;
  job.weights = weights;
  job.share = share_of(job.window, form);
  hopper::dispatch(removal.window, [&](auto element, auto dim) {
    using Element = decltype(element);
    with_form(form, [&](auto sums) {
      plain_kernel<Element, dim.value, sums.value><<<static_cast<unsigned>(4 * multiprocessors), plain_threads, 0, stream>>>(
          job, static_cast<const Element*>(removal.window.query), static_cast<const Element*>(removal.window.key),
          static_cast<const Element*>(first_value(removal)), flags, out);
    });
  });
  check_launch("removal errors of the window's rows");
}

// launch(where sums go, flags): of groups larger than a block's heads, parts that are added up afterwards.
template <class Launch>
void launch_with_parts(const WindowRemoval& removal, RemovalSums form, float* out, void* scratch, cudaStream_t stream,
                       Launch&& launch) {
  const WindowJob job = job_of(removal, 1);
  const bool parts = form == RemovalSums::group && job.head_blocks > 1;
  auto* flags = static_cast<unsigned char*>(scratch);
  auto* sums = parts ? reinterpret_cast<float*>(flags + flag_bytes(job)) : out;
  launch(sums, flags);
  if (parts) launch_reduce_group(sums, job.kv_heads, removal.removal.columns, job.head_blocks, Reduction::sum, out, stream);
}

}  // namespace

bool window_removal_supported(const WindowRemoval& removal) {
  const auto aligned = [](const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; };
  const FusedWindow& window = removal.window;
  const FusedRemoval& values = removal.removal;
  return window.hopper && hopper::supports(window) && window.type == values.type && window.dim == values.dim &&
         values.columns > 0 && values.head_stride % values.dim == 0 && aligned(values.value) &&
         values.columns == window.shape.columns - window.shape.cut;
}

std::int64_t prepare_removal_scratch_bytes(const WindowRemoval& removal, int multiprocessors) {
  return window_outputs_scratch_bytes(removal.window, multiprocessors);
}

void launch_prepare_removal(const WindowRemoval& removal, const WindowOutputs& outputs, const PreparedRemoval& out,
                            void* scratch, int multiprocessors, cudaStream_t stream) {
  launch_window_outputs(removal.window, removal.statistics, first_value(removal), removal.removal.head_stride, outputs,
                        scratch, multiprocessors, stream);
  const dim3 grid(static_cast<unsigned>(removal.window.kv_heads * removal.window.group), most_rows / rows_of_block);
  hopper::dispatch(removal.window, [&](auto element, auto dim) {
    using Element = decltype(element);
    prepare_kernel<Element, dim.value>
        <<<grid, dim.value, 0, stream>>>(removal, outputs, static_cast<const Element*>(first_value(removal)), out);
  });
  check_launch("preparing removal errors");
  launch_fused_removal_error(removal.removal, out.center, nullptr, 1, out.distance, multiprocessors, stream);
}

std::int64_t window_removal_scratch_bytes(const WindowRemoval& removal) {
  const WindowJob job = job_of(removal, 1);
  const std::int64_t parts = job.head_blocks > 1 ? static_cast<std::int64_t>(job.kv_heads) * job.head_blocks : 0;
  return flag_bytes(job) + parts * removal.removal.columns * static_cast<std::int64_t>(sizeof(float));
}

void launch_window_removal(const WindowRemoval& removal, const PreparedRemoval& prepared, const RowWeights& weights,
                           RemovalSums form, float* out, void* scratch, int multiprocessors, cudaStream_t stream) {
  launch_with_parts(removal, form, out, scratch, stream, [&](float* sums, unsigned char* flags) {
    launch_errors(removal, prepared, weights, form, sums, flags, multiprocessors, stream);
    launch_plain(removal, prepared, weights, form, reinterpret_cast<const unsigned*>(flags), sums, multiprocessors, stream);
  });
}

void launch_window_removal_plain(const WindowRemoval& removal, const PreparedRemoval& prepared, const RowWeights& weights,
                                 RemovalSums form, float* out, void* scratch, int multiprocessors, cudaStream_t stream) {
  launch_with_parts(removal, form, out, scratch, stream, [&](float* sums, unsigned char*) {
    launch_plain(removal, prepared, weights, form, nullptr, sums, multiprocessors, stream);
  });
}

std::int64_t repaired_tiles(const WindowRemoval& removal, const void* scratch, cudaStream_t stream) {
  const WindowJob job = job_of(removal, 1);
  std::vector<unsigned> flags(static_cast<std::size_t>(job.kv_heads) * job.head_blocks * job.tiles);
  check(cudaMemcpyAsync(flags.data(), scratch, flags.size() * sizeof(unsigned), cudaMemcpyDeviceToHost, stream),
        "copying from the device");
  check(cudaStreamSynchronize(stream), "waiting for the device");
  return std::count_if(flags.begin(), flags.end(), [](unsigned flag) { return flag != 0; });
}

}  // namespace kvreplay::cuda
