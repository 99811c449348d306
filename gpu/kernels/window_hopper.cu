#include "gpu/kernels/window_hopper.h"

#include "gpu/kernels/elements.cuh"
#include "gpu/kernels/removal_error.h"
#include "gpu/kernels/window_hopper.cuh"

namespace kvreplay::cuda::hopper {
namespace {

constexpr float lowest = -1e30F;

template <int HeadDim>
using KeyRing = TileRing<HeadDim, tile_keys, 4 * 128 / HeadDim>;

using Job = WindowJob;

// Of the first pass: heads of a KV head come in fours, one product of 64 rows for each of the two warpgroups; groups of one
// or two heads are one product, and the warpgroups take turns with the tiles.
Job statistics_job(const FusedWindow& window, int multiprocessors) {
  return make_job(window, multiprocessors, window.group > 2 ? 4 : 2);
}
Job sums_job(const FusedWindow& window, int multiprocessors) {
  return make_job(window, multiprocessors, window.group > 2 ? 4 : window.group);
}

// What is known of a row after some of its keys: the largest logit, and Σ exp2(logit - top) of the others.
struct RowState {
  float top = lowest, others = 0;
};

__device__ inline float power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ RowState merged(RowState a, RowState b) {
  const RowState high = a.top >= b.top ? a : b, low = a.top >= b.top ? b : a;
  return {high.top, high.others + (low.others + 1) * power_of_2(low.top - high.top)};
}

__device__ RowState exchanged(const RowState& state, int offset) {
  return {__shfl_xor_sync(all_lanes, state.top, offset), __shfl_xor_sync(all_lanes, state.others, offset)};
}

#if KVREPLAY_HOPPER_CODE

// One row of the first pass in one thread. The largest logit is kept out of the sum, which a weight near 1 would round:
// 1 - weight then keeps its precision.
struct RunningRow {
  float top = lowest;        // the largest logit
  float reference = lowest;  // within 16 of it
  float sum = 0;             // Σ exp2(logit - reference) of the others

  // Takes 32 of a thread's 64 products, those of row `Row`. scale: of products to logits.
  template <int Row>
  __device__ void add(const float (&d)[64], float scale) {
    float high[2] = {fmaxf(d[2 * Row], d[2 * Row + 1]), fmaxf(d[2 * Row + 4], d[2 * Row + 5])};
#pragma unroll
    for (int j = 2; j < 16; j += 2) {
      high[0] = fmaxf(high[0], fmaxf(d[4 * j + 2 * Row], d[4 * j + 2 * Row + 1]));
      high[1] = fmaxf(high[1], fmaxf(d[4 * j + 4 + 2 * Row], d[4 * j + 5 + 2 * Row]));
    }
    const float raw = fmaxf(high[0], high[1]), logit = raw * scale;
    if (logit > reference + 16) {
      sum *= exp2_unit(reference - logit);
      reference = logit;
    }
    float part[2] = {};
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      part[0] += exp2_unit(fmaf(d[4 * j + 2 * Row], scale, -reference));
      part[1] += exp2_unit(fmaf(d[4 * j + 2 * Row + 1], scale, -reference));
    }
    float others = part[0] + part[1];
    if (logit > top) {
      const float largest = exp2_unit(fmaf(raw, scale, -reference)), before = exp2_unit(top - reference);
      others -= largest;
      // Where the largest is most of everything, what the subtraction leaves is not precise enough.
      if (largest > 4 * (sum + before + others)) {
        float count = -1;
        others = 0;
#pragma unroll
        for (int j = 0; j < 16; ++j)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const float x = d[4 * j + 2 * Row + i];
            if (x == raw)
              ++count;
            else
              others += exp2_unit(fmaf(x, scale, -reference));
          }
        others = fmaf(count, largest, others);
      }
      others += before;
      top = logit;
    }
    sum += others;
  }
  __device__ RowState state() const { return {top, sum * exp2_unit(reference - top)}; }
};

#endif  // KVREPLAY_HOPPER_CODE

// The first pass: queries are the rows of the product, so that a row's maximum and sum stay inside a thread. partial
// [Hk · head blocks, splits, warpgroups, 64].
//
// Bound by reading the keys; in the shadow of a tile's 1,800 cycles are 1,024 of the tensor cores and 1,024 of the special
// function units, and about four instructions for each weight.
template <class Element, int HeadDim>
__global__ void __launch_bounds__(tile_threads, 1)
    statistics_kernel(const __grid_constant__ CUtensorMap key_map, const Element* query, const __grid_constant__ Job job,
                      RowState* partial) {
#if KVREPLAY_HOPPER_CODE
  extern __shared__ unsigned char shared[];
  __shared__ std::uint64_t barriers[KeyRing<HeadDim>::barrier_count];
  KeyRing<HeadDim> ring(aligned_tiles(shared), barriers);
  const bool alternate = job.heads_of_block == 2;
  if (threadIdx.x == 0) ring.init(alternate ? 4 : 8);
  __syncthreads();
  const Part part(job);
  const int kv_head = static_cast<int>(blockIdx.y) / job.head_blocks;
  const int first_head = static_cast<int>(blockIdx.y) % job.head_blocks * job.heads_of_block;
  const int warpgroup = __shfl_sync(all_lanes, static_cast<int>(threadIdx.x) / warpgroup_threads, 0);

  if (warpgroup == 0) {
    fewer_registers<24>();
    if (threadIdx.x == 0)
      for (int i = 0; i < part.count; ++i) ring.fill(i, &key_map, (part.begin + i) * tile_keys, kv_head);
    return;
  }

  more_registers<240>();
  const int mine = alternate ? 0 : (warpgroup - 1) * unit_rows;  // first row of the block that this warpgroup has
  const auto row_pointer = [&](int row) {
    const int head = first_head + (mine + row) / slot_rows, w = row % slot_rows;
    const std::int64_t at = (static_cast<std::int64_t>(kv_head) * job.group + head) * job.window + w;
    return head < job.group && w < job.window ? query + at * HeadDim : nullptr;
  };
  std::uint32_t a[HeadDim / 16][4];
  load_rows<Element, HeadDim>(a, row_pointer(lane_row()), row_pointer(lane_row() + 8));

  RunningRow low, high;
  const auto start = [&](float(&d)[64], int i) {
    ring.wait(i);
    const std::uint32_t address = ring.address(i);
    products_begin();
#pragma unroll
    for (int k = 0; k < HeadDim / 16; ++k)
      multiply<Element, 0>(d, a[k], rows_transposed(address + k / 4 * ring.piece_bytes + k % 4 * 32), k == 0 ? 0 : 1);
    products_commit();
  };
  const auto use = [&](float(&d)[64], int i) {
    const int first = (part.begin + i) * tile_keys;
    if (!job.all_seen(first, tile_keys)) {
#pragma unroll
      for (int at = 0; at < 64; ++at) {
        const int w = (lane_row() + at % 4 / 2 * 8) % slot_rows;
        if (!job.seen(w, first + at / 4 * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + at % 2)) d[at] = -INFINITY;
      }
    }
    low.add<0>(d, job.scale);
    high.add<1>(d, job.scale);
  };
  take_turns<64>(
      alternate ? warpgroup - 1 : 0, alternate ? 2 : 1, part.count, start, [&](int i) { ring.release(i); }, use);

  partial += ((static_cast<std::int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * 2 + warpgroup - 1) * unit_rows;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    RowState state = half == 0 ? low.state() : high.state();
    state = merged(state, exchanged(state, 1));
    state = merged(state, exchanged(state, 2));
    if (threadIdx.x % 4 == 0) partial[lane_row() + half * 8] = state;
  }
#else
  __trap();
#endif
}

// One warp a row.
__global__ void merge_kernel(const __grid_constant__ Job job, const RowState* partial, RowStatistics out) {
  const int r = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / warp_size);
  if (r >= job.kv_heads * job.group * job.window) return;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int w = r % job.window, head = r / job.window, in_group = head % job.group;
  const int slot = in_group % job.heads_of_block;
  const int pair = head / job.group * job.head_blocks + in_group / job.heads_of_block;
  const bool alternate = job.heads_of_block == 2;
  const int parts = alternate ? 2 : 1;
  RowState state;
  for (int i = lane; i < job.splits * parts; i += warp_size) {
    const int warpgroup = alternate ? i % 2 : slot / 2;
    const std::int64_t at = (static_cast<std::int64_t>(pair) * job.splits + i / parts) * 2 + warpgroup;
    state = merged(state, partial[at * unit_rows + slot % 2 * slot_rows + w]);
  }
  for (int offset = warp_size / 2; offset > 0; offset /= 2) state = merged(state, exchanged(state, offset));
  if (lane != 0) return;
  out.top[r] = state.top;
  out.inverse[r] = 1 / (1 + state.others);
  out.complement[r] = state.others / (1 + state.others);
}

// ---- the second pass ---------------------------------------------------------------------------------------------------

#if KVREPLAY_HOPPER_CODE

// Keys are the rows of the product and the queries of up to four heads its columns, 32 for each head. A thread has, of two
// keys, 8 window rows of every head: element at of its products is head at / 16, window row
// at / 4 % 4 · 8 + 2 (lane % 4) + at % 2, key lane_row() + 8 (at / 2 % 2).
template <class Element, int HeadDim, int Heads>
struct WeightStream {
  static constexpr int count = Heads * 16;
  static constexpr int query_piece = Heads * slot_rows * piece_columns * 2;
  static constexpr int query_bytes = Heads * slot_rows * HeadDim * 2;

  static __device__ int window_row(int at) { return at / 4 % 4 * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + at % 2; }
  // The place of a product among the Heads · 8 numbers that a thread has for its columns.
  static constexpr __device__ int column(int at) { return at / 4 * 2 + at % 2; }

  // use(weights, first column): exp2(logit + shift) of a tile's 64 keys, shift(head, window row) being -infinity for rows
  // that do not count. The latest keys come first: the first pass leaves those in the second-level cache.
  template <class Shift, class Use>
  static __device__ void run(const CUtensorMap& key_map, const CUtensorMap& query_map, const Job& job, unsigned char* memory,
                             Shift&& shift, Use&& use) {
    __shared__ std::uint64_t barriers[KeyRing<HeadDim>::barrier_count + 1];
    std::uint64_t* queries_there = barriers + KeyRing<HeadDim>::barrier_count;
    memory = aligned_tiles(memory);
    unsigned char* queries = memory + KeyRing<HeadDim>::bytes;
    KeyRing<HeadDim> ring(memory, barriers);
    if (threadIdx.x == 0) {
      barrier_init(queries_there, 1);
      ring.init(8);
    }
    __syncthreads();
    const Part part(job);
    const int kv_head = static_cast<int>(blockIdx.y) / job.head_blocks;
    const int first_head = static_cast<int>(blockIdx.y) % job.head_blocks * Heads;
    const int warpgroup = __shfl_sync(all_lanes, static_cast<int>(threadIdx.x) / warpgroup_threads, 0);
    const auto first_key = [&](int i) { return (part.begin + part.count - 1 - i) * tile_keys; };

    if (warpgroup == 0) {
      fewer_registers<24>();
      if (threadIdx.x == 0) {
        barrier_expect(queries_there, query_bytes);
        for (int head = 0; head < Heads; ++head)
          for (int piece = 0; piece < HeadDim / piece_columns; ++piece)
            copy_box(queries + piece * query_piece + head * slot_rows * piece_columns * 2, &query_map, piece * piece_columns,
                     0, kv_head * job.group + first_head + head, queries_there);
        for (int i = 0; i < part.count; ++i) ring.fill(i, &key_map, first_key(i), kv_head);
      }
      return;
    }

    more_registers<240>();
    float shifts[Heads * 8];
#pragma unroll
    for (int at = 0; at < count; ++at)
      if (at / 2 % 2 == 0) {
        const int head = first_head + at / 16, w = window_row(at);
        shifts[column(at)] = head < job.group && w < job.window ? shift(kv_head * job.group + head, w) : -INFINITY;
      }
    barrier_wait(queries_there, 0);
    const std::uint32_t b = shared_address(queries);
    const int mine = (warpgroup - 1) * unit_rows;
    const auto start = [&](float(&d)[count], int i) {
      ring.wait(i);
      const std::uint32_t a = ring.address(i) + mine * piece_columns * 2;
      products_begin();
#pragma unroll
      for (int k = 0; k < HeadDim / 16; ++k)
        multiply_shared<Element>(d, rows_transposed(a + k / 4 * ring.piece_bytes + k % 4 * 32),
                                 rows_transposed(b + k / 4 * query_piece + k % 4 * 32), k == 0 ? 0 : 1);
      products_commit();
    };
    const auto weigh = [&](float(&d)[count], int i) {
      const int first = first_key(i) + mine;
      if (!job.all_seen(first, unit_rows)) {
#pragma unroll
        for (int at = 0; at < count; ++at)
          if (!job.seen(window_row(at), first + lane_row() + at / 2 % 2 * 8)) d[at] = -INFINITY;
      }
#pragma unroll
      for (int at = 0; at < count; ++at) d[at] = exp2_unit(fmaf(d[at], job.scale, shifts[column(at)]));
      use(d, first);
    };
    take_turns<count>(
        0, 1, part.count, start, [&](int i) { ring.release(i); }, weigh);
  }
};

// Writes means, and their odds unless null, of 64 keys.
template <int Heads>
class SumsOfTile {
 public:
  static constexpr int sums = Heads * 2;  // number h · 2 + r: head h, key lane_row() + 8 r

  // remainders [Heads, 32]: c of each row, and c times the complement of its dominant weight.
  __device__ SumsOfTile(const Job& job, const float2* remainders, float* mean, float* odds)
      : remainders_(remainders), lane_(static_cast<int>(threadIdx.x) % warp_size), n_(job.columns - job.cut) {
    const int in_group = static_cast<int>(blockIdx.y) % job.head_blocks * Heads + QuadSums<sums>::source(lane_) / 2;
    const std::int64_t head = static_cast<std::int64_t>(blockIdx.y) / job.head_blocks * job.group + in_group;
    writes_ = QuadSums<sums>::writes(lane_) && in_group < job.group;
    first_ = lane_row() - job.cut;
    mean_ = mean + head * n_;
    odds_ = odds == nullptr ? nullptr : odds + head * n_;
  }

  // Σ_w weight of every head and key of a thread, and what is left of 1 where the sum comes near it.
  __device__ void write(const float (&d)[Heads * 16], int first) const {
    float sum[sums] = {};
#pragma unroll
    for (int at = 0; at < Heads * 16; ++at) sum[at / 16 * 2 + at / 2 % 2] += d[at];
    QuadSums<sums>::reduce(sum, lane_);
    float rest[sums];
    bool high = false;
#pragma unroll
    for (int k = 0; k < QuadSums<sums>::kept; ++k) {
      rest[k] = 1 - sum[k];
      high |= sum[k] > 0.5F;
    }
    if (odds_ != nullptr && __any_sync(all_lanes, high)) {
      float complements[sums];
      sum_complements(d, complements);
      QuadSums<sums>::reduce(complements, lane_);
#pragma unroll
      for (int k = 0; k < QuadSums<sums>::kept; ++k)
        if (sum[k] > 0.5F) rest[k] = complements[k];
    }
#pragma unroll
    for (int k = 0; k < QuadSums<sums>::kept; ++k) {
      const int column = first + first_ + (QuadSums<sums>::source(lane_) + k) % 2 * 8;
      if (!writes_ || column < 0 || column >= n_) continue;
      mean_[column] = sum[k];
      if (odds_ != nullptr) odds_[column] = __fdividef(sum[k], fmaxf(rest[k], least_rest));
    }
  }

 private:
  // 1 - Σ c a = Σ c (1 - a), each 1 - a exact where a is the row's dominant weight. Weights come multiplied by c.
  __device__ void sum_complements(const float (&d)[Heads * 16], float (&rest)[sums]) const {
#pragma unroll
    for (int k = 0; k < sums; ++k) rest[k] = 0;
#pragma unroll
    for (int at = 0; at < Heads * 16; ++at) {
      const float2 own = remainders_[at / 16 * slot_rows + at / 4 % 4 * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + at % 2];
      rest[at / 16 * 2 + at / 2 % 2] += d[at] > 0.5F * own.x ? own.y : own.x - d[at];
    }
  }

  const float2* remainders_;
  float *mean_, *odds_;
  int lane_, n_, first_;
  bool writes_;
};

#endif  // KVREPLAY_HOPPER_CODE

// Bound by reading the keys, and three instructions for each weight.
template <class Element, int HeadDim, int Heads>
__global__ void __launch_bounds__(tile_threads, 1)
    sums_kernel(const __grid_constant__ CUtensorMap key_map, const __grid_constant__ CUtensorMap query_map,
                const __grid_constant__ Job job, RowStatistics statistics, const __grid_constant__ RowWeights weights,
                float* mean, float* odds) {
#if KVREPLAY_HOPPER_CODE
  extern __shared__ unsigned char shared[];
  __shared__ float2 remainders[Heads * slot_rows];
  __shared__ float factor[slot_rows];
  if (threadIdx.x < Heads * slot_rows) {  // the stream's start synchronises
    const int w = static_cast<int>(threadIdx.x) % slot_rows;
    const int in_group = static_cast<int>(blockIdx.y) % job.head_blocks * Heads + static_cast<int>(threadIdx.x) / slot_rows;
    const std::int64_t head = static_cast<std::int64_t>(blockIdx.y) / job.head_blocks * job.group + in_group;
    const bool there = w < job.window && in_group < job.group;
    const float c = there ? weights.value[w] : 0.0F;
    remainders[threadIdx.x] = {c, there ? c * statistics.complement[head * job.window + w] : 0.0F};
    if (threadIdx.x < slot_rows) factor[w] = c;
  }
  const auto shift = [&](int head, int w) {
    const std::int64_t row = static_cast<std::int64_t>(head) * job.window + w;
    return log2f(factor[w] * statistics.inverse[row]) - statistics.top[row];
  };
  const SumsOfTile<Heads> tile(job, remainders, mean, odds);
  const auto use = [&](float(&d)[Heads * 16], int first) { tile.write(d, first); };
  WeightStream<Element, HeadDim, Heads>::run(key_map, query_map, job, shared, shift, use);
#else
  __trap();
#endif
}

// rows [Hk, W, n]. Bound by writing them and reading the keys.
template <class Element, int HeadDim, int Heads>
__global__ void __launch_bounds__(tile_threads, 1)
    group_rows_kernel(const __grid_constant__ CUtensorMap key_map, const __grid_constant__ CUtensorMap query_map,
                      const __grid_constant__ Job job, RowStatistics statistics, bool largest, float* rows) {
#if KVREPLAY_HOPPER_CODE
  extern __shared__ unsigned char shared[];
  const float share = largest ? 1.0F : 1 / static_cast<float>(job.group);
  const auto shift = [&](int head, int w) {
    const std::int64_t row = static_cast<std::int64_t>(head) * job.window + w;
    return log2f(share * statistics.inverse[row]) - statistics.top[row];
  };
  const int n = job.columns - job.cut, w0 = static_cast<int>(threadIdx.x) % 4 * 2;
  rows += (static_cast<std::int64_t>(blockIdx.y) * job.window + w0) * n;
  const auto use = [&](float(&d)[Heads * 16], int first) {
    const int column = first + lane_row() - job.cut;
    const bool inside = first >= job.cut && first + unit_rows - job.cut <= n && job.window == slot_rows;
    if (largest) {
#pragma unroll
      for (int at = 16; at < Heads * 16; ++at) asm("max.NaN.f32 %0, %0, %1;" : "+f"(d[at % 16]) : "f"(d[at]));
    } else {
#pragma unroll
      for (int at = 16; at < Heads * 16; ++at) d[at % 16] += d[at];
    }
#pragma unroll
    for (int at = 0; at < 16; ++at) {
      const int c = column + at / 2 % 2 * 8, w = at / 4 * 8 + at % 2;
      if (inside || (c >= 0 && c < n && w0 + w < job.window)) rows[static_cast<std::int64_t>(w) * n + c] = d[at];
    }
  };
  WeightStream<Element, HeadDim, Heads>::run(key_map, query_map, job, shared, shift, use);
#else
  __trap();
#endif
}

// rows [Hq, W, n]. Bound by writing them.
template <class Element, int HeadDim, int Heads>
__global__ void __launch_bounds__(tile_threads, 1)
    head_rows_kernel(const __grid_constant__ CUtensorMap key_map, const __grid_constant__ CUtensorMap query_map,
                     const __grid_constant__ Job job, RowStatistics statistics, float* rows) {
#if KVREPLAY_HOPPER_CODE
  extern __shared__ unsigned char shared[];
  const auto shift = [&](int head, int w) {
    const std::int64_t row = static_cast<std::int64_t>(head) * job.window + w;
    return log2f(statistics.inverse[row]) - statistics.top[row];
  };
  const int n = job.columns - job.cut, w0 = static_cast<int>(threadIdx.x) % 4 * 2;
  const int first_head = static_cast<int>(blockIdx.y) % job.head_blocks * Heads;
  rows += ((static_cast<std::int64_t>(blockIdx.y) / job.head_blocks * job.group + first_head) * job.window + w0) * n;
  const auto use = [&](float(&d)[Heads * 16], int first) {
    const int column = first + lane_row() - job.cut;
#pragma unroll
    for (int at = 0; at < Heads * 16; ++at) {
      const int c = column + at / 2 % 2 * 8, w = at / 4 % 4 * 8 + at % 2, head = at / 16;
      if (c >= 0 && c < n && w0 + w < job.window && first_head + head < job.group)
        rows[(static_cast<std::int64_t>(head) * job.window + w) * n + c] = d[at];
    }
  };
  WeightStream<Element, HeadDim, Heads>::run(key_map, query_map, job, shared, shift, use);
#else
  __trap();
#endif
}

// ---- launches ----------------------------------------------------------------------------------------------------------

CUtensorMap map_keys(const FusedWindow& window) {
  return map_columns(window, window.key, window.key_head_stride, tile_keys);
}

template <int HeadDim, int Heads>
constexpr int weight_memory = tile_alignment + KeyRing<HeadDim>::bytes + Heads* slot_rows* HeadDim * 2;

}  // namespace

bool supports(const FusedWindow& window) {
  const auto aligned = [](const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; };
  return fused_window_supported(window.type, window.dim, window.shape.window) && window.scale > 0 && window.cap == 0 &&
         window.kv_heads > 0 && window.group > 0 && window.shape.columns > 0 && window.shape.columns < (1 << 30) &&
         window.key_head_stride % window.dim == 0 && aligned(window.key) && aligned(window.query) && available();
}

bool supports(const RowWeights& weights, int window) {
  return std::all_of(weights.value, weights.value + window, [](float weight) { return weight >= 0; });
}

std::int64_t window_statistics_scratch_bytes(const FusedWindow& window, int multiprocessors) {
  const Job job = statistics_job(window, multiprocessors);
  return static_cast<std::int64_t>(job.kv_heads) * job.head_blocks * job.splits * 2 * unit_rows *
         static_cast<std::int64_t>(sizeof(RowState));
}

void window_statistics(const FusedWindow& window, const RowStatistics& out, void* scratch, int multiprocessors,
                       cudaStream_t stream) {
  const Job job = statistics_job(window, multiprocessors);
  auto* partial = static_cast<RowState*>(scratch);
  dispatch(window, [&](auto element, auto dim) {
    using Element = decltype(element);
    const auto kernel = statistics_kernel<Element, dim.value>;
    constexpr int bytes = tile_alignment + KeyRing<dim.value>::bytes;
    allow_shared_memory(kernel, bytes);
    kernel<<<grid_of(job), tile_threads, bytes, stream>>>(map_keys(window), static_cast<const Element*>(window.query), job,
                                                          partial);
  });
  check_launch("statistics of window attention (wgmma)");
  merge_kernel<<<blocks_for(window.shape.rows, 8), 8 * warp_size, 0, stream>>>(job, partial, out);
  check_launch("merging statistics of window attention (wgmma)");
}

void window_sums(const FusedWindow& window, const RowStatistics& statistics, const RowWeights& weights, float* mean,
                 float* odds, int multiprocessors, cudaStream_t stream) {
  const Job job = sums_job(window, multiprocessors);
  dispatch_heads(window, job, [&](auto element, auto dim, auto heads) {
    const auto kernel = sums_kernel<decltype(element), dim.value, heads.value>;
    allow_shared_memory(kernel, weight_memory<dim.value, heads.value>);
    kernel<<<grid_of(job), tile_threads, weight_memory<dim.value, heads.value>, stream>>>(
        map_keys(window), map_queries(window), job, statistics, weights, mean, odds);
  });
  check_launch("sums over the window (wgmma)");
}

void window_group_rows(const FusedWindow& window, const RowStatistics& statistics, bool largest, float* rows,
                       int multiprocessors, cudaStream_t stream) {
  const Job job = sums_job(window, multiprocessors);
  dispatch_heads(window, job, [&](auto element, auto dim, auto heads) {
    const auto kernel = group_rows_kernel<decltype(element), dim.value, heads.value>;
    allow_shared_memory(kernel, weight_memory<dim.value, heads.value>);
    kernel<<<grid_of(job), tile_threads, weight_memory<dim.value, heads.value>, stream>>>(
        map_keys(window), map_queries(window), job, statistics, largest, rows);
  });
  check_launch("window attention over groups of heads (wgmma)");
}

void window_rows(const FusedWindow& window, const RowStatistics& statistics, float* rows, int multiprocessors,
                 cudaStream_t stream) {
  const Job job = sums_job(window, multiprocessors);
  dispatch_heads(window, job, [&](auto element, auto dim, auto heads) {
    const auto kernel = head_rows_kernel<decltype(element), dim.value, heads.value>;
    allow_shared_memory(kernel, weight_memory<dim.value, heads.value>);
    kernel<<<grid_of(job), tile_threads, weight_memory<dim.value, heads.value>, stream>>>(
        map_keys(window), map_queries(window), job, statistics, rows);
  });
  check_launch("rows of window attention (wgmma)");
}

}  // namespace kvreplay::cuda::hopper
