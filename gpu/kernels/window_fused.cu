#include "gpu/kernels/window_fused.h"

#include <algorithm>

#include "gpu/device.h"
#include "gpu/kernels/elements.cuh"
#include "gpu/kernels/launch.cuh"
#include "gpu/kernels/removal_error.h"
#include "gpu/kernels/tensor_core.cuh"
#include "gpu/kernels/window_hopper.h"

namespace kvreplay::cuda {
namespace {

// A block has four warps. Each holds the queries of one head, 32 rows, in registers, and the block streams keys, 64 at a
// time. With fewer than four heads in a group the warps of a head share the 64 keys among them.
constexpr int warps = 4, threads = warps * warp_size, rows_of_warp = 32, keys_of_tile = 64, stages = 4;
constexpr int blocks_of_multiprocessor = 3;
constexpr float lowest = -1e30F;

struct Job {
  FusedWindow window;
  std::int64_t tiles;       // of keys
  std::int64_t tiles_each;  // of a block
  int heads_of_block;       // 1, 2 or 4
  int head_blocks;          // of a KV head
  float scale_log2;         // logits to units of log 2; with a cap: logits to units of the cap
  float cap_log2;           // 0: none
};

// Which part of the problem a block has.
struct Place {
  int kv_head, first_head;  // first_head: within the group
  std::int64_t tile, tile_end;
};

__device__ Place place_of(const Job& job) {
  const int pair = static_cast<int>(blockIdx.y);
  const std::int64_t tile = static_cast<std::int64_t>(blockIdx.x) * job.tiles_each;
  return {pair / job.head_blocks, pair % job.head_blocks * job.heads_of_block, tile,
          tile + job.tiles_each < job.tiles ? tile + job.tiles_each : job.tiles};
}

struct State {
  float top = lowest;
  float small = 0;  // Σ exp2(logit - top) of those below it
  int count = 0;    // of those at the top: added to `small` they would round it
};

// Moves the state to a higher top.
__device__ void raise(State& state, float top) {
  if (top <= state.top) return;
  state.small = (state.small + static_cast<float>(state.count)) * exp2_fast(state.top - top);
  state.count = 0;
  state.top = top;
}

__device__ void merge(State& state, const State& other) {
  State mine = state, theirs = other;
  raise(mine, theirs.top);
  raise(theirs, mine.top);
  state = {mine.top, mine.small + theirs.small, mine.count + theirs.count};
}

// Logits of one warp's 32 rows with `keys` keys, in units of log 2 and masked, as accumulators: [2][keys / 8][4].
template <class Element, int dim>
class WarpLogits {
 public:
  static constexpr int depth = dim / 16;

  // Queries of one head into registers; rows past the window are zeros.
  __device__ void load_queries(const FusedWindow& window, int head) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const auto* query =
        static_cast<const Element*>(window.query) + static_cast<std::int64_t>(head) * window.shape.window * dim;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int k = 0; k < depth; ++k)
#pragma unroll
        for (int part = 0; part < 4; ++part) {
          const int row = half * 16 + lane / 4 + part % 2 * 8, column = k * 16 + lane % 4 * 2 + part / 2 * 8;
          query_[half][k][part] =
              row < window.shape.window ? *reinterpret_cast<const unsigned*>(query + row * dim + column) : 0U;
        }
  }

  template <int keys>
  __device__ void multiply(const Element* tile, float (&sum)[2][keys / 8][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const Element* row = tile + (lane % 8 + lane / 16 * 8) * PaddedTile<dim>::stride + lane / 8 % 2 * 8;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int n = 0; n < keys / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[half][n][i] = 0;
#pragma unroll
    for (int k = 0; k < depth; ++k)
#pragma unroll
      for (int n = 0; n < keys / 16; ++n) {
        unsigned b[4];
        load_matrices(b, row + n * 16 * PaddedTile<dim>::stride + k * 16);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          multiply_add<Element>(sum[half][2 * n], query_[half][k], b[0], b[1]);
          multiply_add<Element>(sum[half][2 * n + 1], query_[half][k], b[2], b[3]);
        }
      }
  }

 private:
  unsigned query_[2][depth][4];
};

// Products to logits in units of log 2; what a row does not see becomes -infinity. `first`: column of the first key.
template <int keys>
__device__ void finish_logits(const Job& job, std::int64_t first, float (&sum)[2][keys / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const RowShape& shape = job.window.shape;
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int n = 0; n < keys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float scaled = sum[half][n][i] * job.scale_log2;
        sum[half][n][i] = job.cap_log2 > 0 ? job.cap_log2 * tanhf(scaled) : scaled;
      }
  // Only the tiles at the ends hold keys that some row does not see.
  const std::int64_t newest = shape.first_query - shape.low, last_window = shape.first_query + shape.window - 1;
  const bool starts_late = shape.sliding_window > 0 && first + shape.low <= last_window - shape.sliding_window;
  if (first + keys - 1 <= newest && !starts_late) return;
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int n = 0; n < keys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = half * 16 + lane / 4 + i / 2 * 8;
        const std::int64_t column = first + n * 8 + lane % 4 * 2 + i % 2;
        const std::int64_t position = column + shape.low, query = shape.first_query + row;
        const bool seen = column < shape.columns && position <= query &&
                          (shape.sliding_window == 0 || position > query - shape.sliding_window);
        if (!seen) sum[half][n][i] = -INFINITY;
      }
}

template <int keys>
__device__ void add_to_states(const float (&logit)[2][keys / 8][4], State (&state)[4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int low = 0; low < 2; ++low) {
      State& s = state[half * 2 + low];
      float top = logit[half][0][low * 2];
#pragma unroll
      for (int n = 0; n < keys / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) top = fmaxf(top, logit[half][n][low * 2 + i]);
      raise(s, top);
#pragma unroll
      for (int n = 0; n < keys / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float e = exp2_fast(logit[half][n][low * 2 + i] - s.top);
          if (e < 1)
            s.small += e;
          else
            ++s.count;
        }
    }
}

template <class Element, int dim>
constexpr int pipeline_bytes = RowStream<Element, dim, keys_of_tile, stages, threads>::bytes;

// Streams the block's tiles of keys through shared memory; body(tile in shared memory, first column).
template <class Element, int dim, class Body>
__device__ void for_each_tile(const Job& job, const Place& place, Element* shared, Body&& body) {
  const auto* key = static_cast<const Element*>(job.window.key) + place.kv_head * job.window.key_head_stride;
  RowStream<Element, dim, keys_of_tile, stages, threads>::run(key, job.window.shape.columns, place.tile, place.tile_end,
                                                              shared, body);
}

// The head and the keys of a tile that a warp of the block has.
template <int heads>
struct WarpPart {
  static constexpr int parts = warps / heads, keys = keys_of_tile / parts;
  int head, first_key;
  __device__ WarpPart()
      : head(static_cast<int>(threadIdx.x) / warp_size % heads),
        first_key(static_cast<int>(threadIdx.x) / warp_size / heads * keys) {}
};

// partial [Hk · head blocks][blocks along the keys][warps][32]
template <class Element, int dim, int heads>
__global__ void __launch_bounds__(threads, blocks_of_multiprocessor) window_statistics(Job job, State* partial) {
  extern __shared__ __align__(16) unsigned char bytes[];
  const Place place = place_of(job);
  const WarpPart<heads> part;
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  const int head = place.first_head + part.head;
  const bool active = head < job.window.group;
  WarpLogits<Element, dim> logits;
  if (active) logits.load_queries(job.window, place.kv_head * job.window.group + head);
  State state[4];
  for_each_tile<Element, dim>(job, place, reinterpret_cast<Element*>(bytes), [&](const Element* tile, std::int64_t first) {
    if (!active) return;
    float sum[2][WarpPart<heads>::keys / 8][4];
    logits.template multiply<WarpPart<heads>::keys>(tile + part.first_key * PaddedTile<dim>::stride, sum);
    finish_logits<WarpPart<heads>::keys>(job, first + part.first_key, sum);
    add_to_states<WarpPart<heads>::keys>(sum, state);
  });
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    for (int offset = 1; offset < 4; offset *= 2) {
      State other;
      other.top = __shfl_xor_sync(all_lanes, state[r].top, offset);
      other.small = __shfl_xor_sync(all_lanes, state[r].small, offset);
      other.count = __shfl_xor_sync(all_lanes, state[r].count, offset);
      merge(state[r], other);
    }
    if (lane % 4 == 0)
      partial[((static_cast<std::int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * warps + warp) * rows_of_warp + r / 2 * 16 +
              r % 2 * 8 + lane / 4] = state[r];
  }
}

// One warp a row.
__global__ void merge_statistics(Job job, const State* partial, std::int64_t blocks, RowStatistics out) {
  const std::int64_t r = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / warp_size;
  if (r >= job.window.shape.rows) return;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int row = static_cast<int>(r % job.window.shape.window), head = static_cast<int>(r / job.window.shape.window);
  const int in_group = head % job.window.group, heads = job.heads_of_block;
  const std::int64_t pair = head / job.window.group * job.head_blocks + in_group / heads;
  const int parts = warps / heads;
  State state;
  for (std::int64_t i = lane; i < blocks * parts; i += warp_size) {
    const std::int64_t block = i / parts, warp = i % parts * heads + in_group % heads;
    merge(state, partial[((pair * blocks + block) * warps + warp) * rows_of_warp + row]);
  }
  for (int offset = warp_size / 2; offset > 0; offset /= 2) {
    State other;
    other.top = __shfl_xor_sync(all_lanes, state.top, offset);
    other.small = __shfl_xor_sync(all_lanes, state.small, offset);
    other.count = __shfl_xor_sync(all_lanes, state.count, offset);
    merge(state, other);
  }
  if (lane != 0) return;
  const float others = state.small + static_cast<float>(state.count - 1);
  out.top[r] = state.top;
  out.inverse[r] = 1 / (state.small + static_cast<float>(state.count));
  out.complement[r] = others / (1 + others);
}

// Of the 2 · (keys / 8) column sums that a lane has, over its own four rows, to the sums over all 32 rows: three exchanges
// between lanes that hold other rows of the same columns, each halving the columns that a lane goes on with.
template <int count>
struct RowSums {
  // values[i]: column i / 2 * 8 + lane % 4 * 2 + i % 2 of the tile.
  static __device__ void reduce(float (&values)[count], int lane) {
    if constexpr (count >= 8) {
      halve<count>(values, lane, 16);
      halve<count / 2>(values, lane, 8);
      halve<count / 4>(values, lane, 4);
    } else {
      for (int offset = 16; offset >= 4; offset /= 2)
        for (int i = 0; i < count; ++i) values[i] += __shfl_xor_sync(all_lanes, values[i], offset);
    }
  }
  static constexpr int kept = count >= 8 ? count / 8 : count;
  // Which of the `count` columns a lane's k-th result is.
  static __device__ int source(int lane, int k) {
    if constexpr (count < 8) return k;
    return ((lane & 16) != 0 ? count / 2 : 0) + ((lane & 8) != 0 ? count / 4 : 0) + ((lane & 4) != 0 ? count / 8 : 0) + k;
  }
  // Without halving every lane of a column has the result; one writes.
  static __device__ bool writes(int lane) { return count >= 8 || lane < 4; }

 private:
  template <int now>
  static __device__ void halve(float (&values)[count], int lane, int offset) {
    const bool upper = (lane & offset) != 0;
#pragma unroll
    for (int i = 0; i < now / 2; ++i) {
      const float sent = upper ? values[i] : values[i + now / 2];
      const float kept_here = upper ? values[i + now / 2] : values[i];
      values[i] = kept_here + __shfl_xor_sync(all_lanes, sent, offset);
    }
  }
};

// What a warp keeps of its rows in the second pass.
struct RowFactors {
  float top[4], inverse[4], factor[4];  // factor: weight of the row in the sum

  __device__ void load(const Job& job, const RowStatistics& statistics, const RowWeights& weights, int head) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size, window = job.window.shape.window;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int row = r / 2 * 16 + r % 2 * 8 + lane / 4;
      const bool inside = row < window;
      const std::int64_t at = static_cast<std::int64_t>(head) * window + row;
      top[r] = inside ? statistics.top[at] : 0;
      inverse[r] = inside ? statistics.inverse[at] : 0;
      factor[r] = inside ? weights.value[row] : 0;
    }
  }
};

template <class Element, int dim, int heads>
__global__ void __launch_bounds__(threads, blocks_of_multiprocessor)
    window_sums(Job job, RowStatistics statistics, RowWeights weights, float* mean, float* odds) {
  extern __shared__ __align__(16) unsigned char bytes[];
  constexpr int keys = WarpPart<heads>::keys, columns = keys / 4;
  const Place place = place_of(job);
  const WarpPart<heads> part;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int in_group = place.first_head + part.head;
  const bool active = in_group < job.window.group;
  const int head = place.kv_head * job.window.group + in_group;
  const RowShape& shape = job.window.shape;
  const std::int64_t n = shape.columns - shape.cut;
  WarpLogits<Element, dim> logits;
  RowFactors rows;
  if (active) {
    logits.load_queries(job.window, head);
    rows.load(job, statistics, weights, head);
  }
  for_each_tile<Element, dim>(job, place, reinterpret_cast<Element*>(bytes), [&](const Element* tile, std::int64_t first) {
    if (!active) return;
    first += part.first_key;
    float p[2][keys / 8][4];
    logits.template multiply<keys>(tile + part.first_key * PaddedTile<dim>::stride, p);
    finish_logits<keys>(job, first, p);
    float sum[columns] = {};
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int i = 0; i < columns; ++i) {
        float& x = p[r / 2][i / 2][r % 2 * 2 + i % 2];
        x = exp2_fast(x - rows.top[r]) * rows.inverse[r];
        sum[i] = fmaf(rows.factor[r], x, sum[i]);
      }
    RowSums<columns>::reduce(sum, lane);
    bool high = false;
#pragma unroll
    for (int k = 0; k < RowSums<columns>::kept; ++k) high |= sum[k] > 0.5F;
    float rest[columns];
    if (odds != nullptr && __any_sync(all_lanes, high)) {
      // 1 - Σ c a = Σ c (1 - a), each 1 - a exact where a is the row's dominant weight.
#pragma unroll
      for (int i = 0; i < columns; ++i) rest[i] = 0;
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int row = r / 2 * 16 + r % 2 * 8 + lane / 4;
#pragma unroll
        for (int i = 0; i < columns; ++i) {
          const float x = p[r / 2][i / 2][r % 2 * 2 + i % 2];
          const float other = x > 0.5F && row < shape.window
                                  ? statistics.complement[static_cast<std::int64_t>(head) * shape.window + row]
                                  : 1 - x;
          rest[i] = fmaf(rows.factor[r], other, rest[i]);
        }
      }
      RowSums<columns>::reduce(rest, lane);
    } else {
#pragma unroll
      for (int k = 0; k < RowSums<columns>::kept; ++k) rest[k] = 1 - sum[k];
    }
    if (!RowSums<columns>::writes(lane)) return;
#pragma unroll
    for (int k = 0; k < RowSums<columns>::kept; ++k) {
      const int i = RowSums<columns>::source(lane, k);
      const std::int64_t column = first + i / 2 * 8 + lane % 4 * 2 + i % 2 - shape.cut;
      if (column < 0 || column >= n) continue;
      mean[head * n + column] = sum[k];
      if (odds != nullptr) odds[head * n + column] = sum[k] / (sum[k] > 0.5F ? fmaxf(rest[k], least_rest) : 1 - sum[k]);
    }
  });
}

// rows [Hk, W, n] of the mean, or the largest, over the group: the block's warps meet in shared memory.
template <class Element, int dim, int heads>
__global__ void __launch_bounds__(threads, 1)
    window_group_rows(Job job, RowStatistics statistics, bool largest, float* out) {
  extern __shared__ __align__(16) unsigned char bytes[];
  constexpr int keys = WarpPart<heads>::keys, stride = keys_of_tile + 4;
  auto* shared = reinterpret_cast<Element*>(bytes);
  auto* weights = reinterpret_cast<float*>(bytes + pipeline_bytes<Element, dim>);  // [heads][32][stride]
  const Place place = place_of(job);
  const WarpPart<heads> part;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const RowShape& shape = job.window.shape;
  const std::int64_t n = shape.columns - shape.cut;
  const int head = place.kv_head * job.window.group + part.head;
  const bool active = part.head < job.window.group;
  WarpLogits<Element, dim> logits;
  RowFactors rows;
  if (active) {
    logits.load_queries(job.window, head);
    rows.load(job, statistics, RowWeights{}, head);
  }
  for_each_tile<Element, dim>(job, place, shared, [&](const Element* tile, std::int64_t first) {
    if (active) {
      float p[2][keys / 8][4];
      logits.template multiply<keys>(tile + part.first_key * PaddedTile<dim>::stride, p);
      finish_logits<keys>(job, first + part.first_key, p);
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < keys / 8; ++c) {
          const int row = r / 2 * 16 + r % 2 * 8 + lane / 4;
          float2 x;
          x.x = exp2_fast(p[r / 2][c][r % 2 * 2] - rows.top[r]) * rows.inverse[r];
          x.y = exp2_fast(p[r / 2][c][r % 2 * 2 + 1] - rows.top[r]) * rows.inverse[r];
          *reinterpret_cast<float2*>(weights + (part.head * rows_of_warp + row) * stride + part.first_key + c * 8 +
                                     lane % 4 * 2) = x;
        }
    }
    __syncthreads();
    const int used = job.window.group < heads ? job.window.group : heads;
    for (int i = static_cast<int>(threadIdx.x); i < shape.window * keys_of_tile; i += threads) {
      const int row = i / keys_of_tile, c = i % keys_of_tile;
      const std::int64_t column = first + c - shape.cut;
      if (column < 0 || column >= n) continue;
      float value = weights[row * stride + c];
      for (int g = 1; g < used; ++g) {
        const float other = weights[(g * rows_of_warp + row) * stride + c];
        value = largest ? (other > value || other != other ? other : value) : value + other;
      }
      out[(static_cast<std::int64_t>(place.kv_head) * shape.window + row) * n + column] =
          largest ? value : value / static_cast<float>(used);
    }
    __syncthreads();
  });
}

Job make_job(const FusedWindow& window, int multiprocessors, int blocks_each) {
  Job job{};
  job.window = window;
  job.tiles = (window.shape.columns + keys_of_tile - 1) / keys_of_tile;
  job.heads_of_block = window.group == 1 ? 1 : window.group == 2 ? 2 : 4;
  job.head_blocks = (window.group + job.heads_of_block - 1) / job.heads_of_block;
  const std::int64_t pairs = static_cast<std::int64_t>(window.kv_heads) * job.head_blocks;
  const std::int64_t wanted = std::max<std::int64_t>(1, static_cast<std::int64_t>(multiprocessors) * blocks_each / pairs);
  job.tiles_each = std::max<std::int64_t>(1, (job.tiles + wanted - 1) / wanted);
  constexpr float log2_e = 1.4426950408889634F;
  job.scale_log2 = window.cap > 0 ? window.scale / window.cap : window.scale * log2_e;
  job.cap_log2 = window.cap * log2_e;
  return job;
}

std::int64_t blocks_along_keys(const Job& job) { return (job.tiles + job.tiles_each - 1) / job.tiles_each; }

dim3 grid_of(const Job& job) {
  return {static_cast<unsigned>(blocks_along_keys(job)), static_cast<unsigned>(job.window.kv_heads * job.head_blocks)};
}

template <class Body>
void dispatch(const Job& job, Body&& body) {
  with_half_dim_and_heads(job.window.type, job.window.dim, job.heads_of_block, body);
}

}  // namespace

bool fused_window_supported(ElementType type, int dim, int window) {
  return type != ElementType::float32 && (dim == 64 || dim == 128) && window >= 1 && window <= rows_of_warp;
}

std::int64_t statistics_scratch_bytes(const FusedWindow& window, int multiprocessors) {
  const Job job = make_job(window, multiprocessors, blocks_of_multiprocessor);
  return std::max(blocks_along_keys(job) * window.kv_heads * job.head_blocks * warps * rows_of_warp *
                      static_cast<std::int64_t>(sizeof(State)),
                  hopper::window_statistics_scratch_bytes(window, multiprocessors));
}

void launch_window_statistics(const FusedWindow& window, const RowStatistics& out, void* scratch, int multiprocessors,
                              cudaStream_t stream) {
  if (window.hopper && hopper::supports(window))
    return hopper::window_statistics(window, out, scratch, multiprocessors, stream);
  const Job job = make_job(window, multiprocessors, blocks_of_multiprocessor);
  auto* partial = static_cast<State*>(scratch);
  dispatch(job, [&](auto element, auto dim, auto heads) {
    using Element = decltype(element);
    auto kernel = window_statistics<Element, dim.value, heads.value>;
    allow_shared_memory(kernel, pipeline_bytes<Element, dim.value>);
    kernel<<<grid_of(job), threads, pipeline_bytes<Element, dim.value>, stream>>>(job, partial);
  });
  check_launch("statistics of window attention");
  merge_statistics<<<blocks_for(window.shape.rows, 8), 8 * warp_size, 0, stream>>>(job, partial, blocks_along_keys(job),
                                                                                   out);
  check_launch("merging statistics of window attention");
}

void launch_window_sums(const FusedWindow& window, const RowStatistics& statistics, const RowWeights& weights, float* mean,
                        float* odds, int multiprocessors, cudaStream_t stream) {
  if (window.hopper && hopper::supports(window) && hopper::supports(weights, window.shape.window))
    return hopper::window_sums(window, statistics, weights, mean, odds, multiprocessors, stream);
  const Job job = make_job(window, multiprocessors, blocks_of_multiprocessor);
  dispatch(job, [&](auto element, auto dim, auto heads) {
    using Element = decltype(element);
    auto kernel = window_sums<Element, dim.value, heads.value>;
    allow_shared_memory(kernel, pipeline_bytes<Element, dim.value>);
    kernel<<<grid_of(job), threads, pipeline_bytes<Element, dim.value>, stream>>>(job, statistics, weights, mean, odds);
  });
  check_launch("sums over the window");
}

void launch_window_group_rows(const FusedWindow& window, const RowStatistics& statistics, bool largest, float* rows,
                              int multiprocessors, cudaStream_t stream) {
  if (window.hopper && hopper::supports(window))
    return hopper::window_group_rows(window, statistics, largest, rows, multiprocessors, stream);
  const Job job = make_job(window, multiprocessors, blocks_of_multiprocessor);
  dispatch(job, [&](auto element, auto dim, auto heads) {
    using Element = decltype(element);
    auto kernel = window_group_rows<Element, dim.value, heads.value>;
    constexpr int bytes = pipeline_bytes<Element, dim.value> +
                          heads.value * rows_of_warp * (keys_of_tile + 4) * static_cast<int>(sizeof(float));
    allow_shared_memory(kernel, bytes);
    kernel<<<grid_of(job), threads, bytes, stream>>>(job, statistics, largest, rows);
  });
  check_launch("window attention over groups of heads");
}

bool launch_window_rows(const FusedWindow& window, const RowStatistics& statistics, float* rows, int multiprocessors,
                        cudaStream_t stream) {
  if (!window.hopper || !hopper::supports(window)) return false;
  hopper::window_rows(window, statistics, rows, multiprocessors, stream);
  return true;
}

}  // namespace kvreplay::cuda
