#include "gpu/kernels/removal_hopper.h"

#include <algorithm>
#include <utility>

#include "gpu/device.h"
#include "gpu/kernels/elements.cuh"
#include "gpu/kernels/hopper.h"
#include "gpu/kernels/hopper_tiles.cuh"
#include "gpu/kernels/launch.cuh"
#include "gpu/kernels/tensor_core.cuh"

namespace kvreplay::cuda::hopper {
namespace {

constexpr int tile_tokens = 64;

template <int HeadDim>
using ValueRing = TileRing<HeadDim, tile_tokens, 4 * 128 / HeadDim>;

// Shared memory of a block: factors, values, centers.
template <int HeadDim, int Heads>
struct Memory {
  static constexpr int factor_bytes = HeadDim * HeadDim * 2;
  static constexpr int center_stride = HeadDim / 4 + 4;  // of a lane of a quad; 4 more, so that the lanes' banks differ
  static constexpr int values = Heads * factor_bytes;
  static constexpr int centers = values + ValueRing<HeadDim>::bytes;
  static constexpr int bytes = tile_alignment + centers + Heads * 4 * center_stride * static_cast<int>(sizeof(float));
};

struct Job {
  int columns, tiles, splits, group, head_blocks;
  float value_scale, tau;
};

#if KVREPLAY_HOPPER_CODE

// Two bfloat16 numbers times a power of two as two float16 numbers.
__device__ inline std::uint32_t half_pair(std::uint32_t pair, float scale) {
  const __half2 halves = __floats2half2_rn(__uint_as_float(pair << 16) * scale, __uint_as_float(pair & 0xffff0000U) * scale);
  return reinterpret_cast<const std::uint32_t&>(halves);
}

// A of the 64 rows of a tile with the 128-byte swizzle: the 16 bytes at place p of row r lie at place p xor r % 8.
template <class Element, int HeadDim>
__device__ inline void load_tile(std::uint32_t (&a)[HeadDim / 16][4], const unsigned char* tile, float scale) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int row = static_cast<int>(threadIdx.x) % warpgroup_threads / warp_size * 16 + lane % 16;
#pragma unroll
  for (int k = 0; k < HeadDim / 16; ++k) {
    const int place = (k % 4 * 2 + lane / 16) ^ (row % 8);
    load_matrices(a[k], tile + k / 4 * ValueRing<HeadDim>::piece_bytes + row * 128 + place * 16);
    if constexpr (!std::is_same_v<Element, __half>) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[k][i] = half_pair(a[k][i], scale);
    }
  }
}

// Columns [First, First + Width) of d += a[k] · R_hᵀ, from the k on whose rows of R_hᵀ reach them.
template <int HeadDim, int First, int Width, int K>
__device__ inline void add_group(float (&d)[HeadDim / 2], const std::uint32_t (&a)[HeadDim / 16][4], std::uint32_t factor) {
  if constexpr (16 * (K + 1) > First) {
    auto& part = reinterpret_cast<float(&)[Width / 2]>(d[First / 2]);
    multiply_columns<Width>(part, a[K], rows_transposed(factor + K / 4 * HeadDim * 128 + K % 4 * 32 + First * 128),
                            K == HeadDim / 16 - 1 ? 0 : 1);
  }
}

// d[64, HeadDim] = a · R_hᵀ, as one group that is under way when this returns.
template <int HeadDim, Triangle Form>
__device__ inline void start_product(float (&d)[HeadDim / 2], const std::uint32_t (&a)[HeadDim / 16][4],
                                     std::uint32_t factor) {
  constexpr int depth = HeadDim / 16;
  constexpr int half = HeadDim / 2, quarter = HeadDim / 4;
  const auto step = [&](auto index) {
    constexpr int k = depth - 1 - decltype(index)::value;
    if constexpr (Form == Triangle::none) {
      multiply_columns<HeadDim>(d, a[k], rows_transposed(factor + k / 4 * HeadDim * 128 + k % 4 * 32),
                                k == depth - 1 ? 0 : 1);
    } else {
      if constexpr (Form == Triangle::quarters) {
        add_group<HeadDim, 0, quarter, k>(d, a, factor);
        add_group<HeadDim, quarter, quarter, k>(d, a, factor);
      } else {
        add_group<HeadDim, 0, half, k>(d, a, factor);
      }
      add_group<HeadDim, half, quarter, k>(d, a, factor);
      add_group<HeadDim, half + quarter, quarter, k>(d, a, factor);
    }
  };
  products_begin();
  [&]<int... K>(std::integer_sequence<int, K...>) { (step(std::integral_constant<int, K>{}), ...); }
  (std::make_integer_sequence<int, depth>{});
  products_commit();
}

// Σ (x - center)² of a thread's numbers: of its upper row and of its lower one.
template <int HeadDim>
__device__ inline void add_squares(const float (&d)[HeadDim / 2], const float* centers, float& upper, float& lower) {
  float sum[4] = {};
#pragma unroll
  for (int j = 0; j < HeadDim / 16; ++j) {
    const float4 c = reinterpret_cast<const float4*>(centers)[j];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float first = d[8 * j + 2 * i] - c.x, second = d[8 * j + 2 * i + 1] - c.y;
      const float third = d[8 * j + 4 + 2 * i] - c.z, fourth = d[8 * j + 4 + 2 * i + 1] - c.w;
      sum[2 * i] = fmaf(first, first, sum[2 * i]);
      sum[2 * i + 1] = fmaf(second, second, sum[2 * i + 1]);
      sum[2 * i] = fmaf(third, third, sum[2 * i]);
      sum[2 * i + 1] = fmaf(fourth, fourth, sum[2 * i + 1]);
    }
  }
  upper = sum[0] + sum[1];
  lower = sum[2] + sum[3];
}

#endif  // KVREPLAY_HOPPER_CODE

// A block keeps the factors of up to four query heads of one KV head in shared memory and streams its part of the values
// past them. The two computing warpgroups take turns with the tiles; while the product with one head's factor is under way,
// the distances of the head before are summed. error [Hq, n].
//
// Bound by the tensor cores. Shared memory delivers B in half of a product's cycles; two instructions for each of the
// Hq · n · d projected numbers take a third of them.
template <class Element, int HeadDim, int Heads, Triangle Form>
__global__ void __launch_bounds__(tile_threads, 1)
    removal_error_kernel(const __grid_constant__ CUtensorMap value_map, const __grid_constant__ CUtensorMap factor_map,
                         const __grid_constant__ Job job, const float* factor_unit, const float* center, const float* odds,
                         float* error) {
#if KVREPLAY_HOPPER_CODE
  using Layout = Memory<HeadDim, Heads>;
  extern __shared__ unsigned char shared[];
  __shared__ std::uint64_t barriers[ValueRing<HeadDim>::barrier_count + 1];
  std::uint64_t* factors_there = barriers + ValueRing<HeadDim>::barrier_count;
  unsigned char* memory = aligned_tiles(shared);
  auto* centers = reinterpret_cast<float*>(memory + Layout::centers);
  ValueRing<HeadDim> ring(memory + Layout::values, barriers);

  const int kv_head = static_cast<int>(blockIdx.y) / job.head_blocks;
  const int first_head = static_cast<int>(blockIdx.y) % job.head_blocks * Heads;
  const int block_head = kv_head * job.group + first_head;
  for (int i = static_cast<int>(threadIdx.x); i < Heads * HeadDim; i += tile_threads) {
    const int head = i / HeadDim, c = i % HeadDim;
    centers[(head * 4 + c % 8 / 2) * Layout::center_stride + c / 8 * 2 + c % 2] =
        first_head + head < job.group ? center[block_head * HeadDim + i] : 0.0F;
  }
  if (threadIdx.x == 0) {
    barrier_init(factors_there, 1);
    ring.init(4);
  }
  __syncthreads();
  const auto tile_of = [&](int part) { return static_cast<int>(static_cast<std::int64_t>(job.tiles) * part / job.splits); };
  const int begin = tile_of(static_cast<int>(blockIdx.x)), count = tile_of(static_cast<int>(blockIdx.x) + 1) - begin;
  const int warpgroup = __shfl_sync(all_lanes, static_cast<int>(threadIdx.x) / warpgroup_threads, 0);

  if (warpgroup == 0) {
    fewer_registers<24>();
    if (threadIdx.x == 0) {
      barrier_expect(factors_there, Heads * Layout::factor_bytes);
      for (int head = 0; head < Heads; ++head)
        for (int piece = 0; piece < HeadDim / piece_columns; ++piece)
          copy_box(memory + head * Layout::factor_bytes + piece * HeadDim * 128, &factor_map, piece * piece_columns, 0,
                   block_head + head, factors_there);
      for (int i = 0; i < count; ++i) ring.fill(i, &value_map, (begin + i) * tile_tokens, kv_head);
    }
    return;
  }

  more_registers<240>();
  int i = warpgroup - 1;
  if (i >= count) return;
  using Sums = QuadSums<Heads * 2>;  // number h · 2 + r: head h, row r of the thread's two
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int row = static_cast<int>(threadIdx.x) % warpgroup_threads / warp_size * 16 + lane / 4;
  const int lane_head = Sums::source(lane) / 2;
  const bool writes = Sums::writes(lane) && first_head + lane_head < job.group;
  const float unit = writes ? factor_unit[block_head + lane_head] / job.value_scale : 0.0F;
  const std::int64_t lane_row = static_cast<std::int64_t>(block_head + lane_head) * job.columns;
  const float* lane_centers = centers + lane % 4 * Layout::center_stride;
  const std::uint32_t factor = shared_address(memory);

  std::uint32_t a[HeadDim / 16][4];
  float squares[Heads * 2], odds_now[Sums::kept], odds_next[Sums::kept];
  const auto column_of = [&](int tile, int k) {
    return (begin + tile) * tile_tokens + row + (Sums::source(lane) + k) % 2 * 8;
  };
  const auto load = [&](int tile) {
#pragma unroll
    for (int k = 0; k < Sums::kept; ++k) {
      const int column = column_of(tile, k);
      odds_next[k] = odds == nullptr ? 1.0F : writes && column < job.columns ? odds[lane_row + column] : 0.0F;
    }
    ring.wait(tile);
    load_tile<Element, HeadDim>(a, ring.tiles + tile % ring.stages * ring.tile_bytes, job.value_scale);
  };
  // After the first product of a tile has ended. Before, the loads into its registers may be under way still, and a release
  // would let the next tile overwrite what they read.
  const auto loaded = [&](int tile) { ring.release(tile); };
  const auto start = [&](float(&d)[HeadDim / 2], int head) {
    start_product<HeadDim, Form>(d, a, factor + head * Layout::factor_bytes);
  };
  const auto use = [&](const float(&d)[HeadDim / 2], int head) {
    add_squares<HeadDim>(d, lane_centers + head * 4 * Layout::center_stride, squares[head * 2], squares[head * 2 + 1]);
  };
  const auto finish = [&](int tile) {
    Sums::reduce(squares, lane);
#pragma unroll
    for (int k = 0; k < Sums::kept; ++k) {
      const int column = column_of(tile, k);
      float norm = sqrtf(squares[k]) * unit;
      if (job.tau != 1) norm = powf(norm, job.tau);
      if (writes && column < job.columns) error[lane_row + column] = norm == 0 ? 0.0F : odds_now[k] * norm;
    }
  };
  const auto next_odds = [&] {
#pragma unroll
    for (int k = 0; k < Sums::kept; ++k) odds_now[k] = odds_next[k];
  };

  // Every wait is for all products: see take_turns.
  float d0[HeadDim / 2];
  barrier_wait(factors_there, 0);
  if constexpr (Heads == 1) {
    for (; i < count; i += 2) {
      load(i);
      next_odds();
      start(d0, 0);
      products_wait<0>();
      settle(d0);
      loaded(i);
      use(d0, 0);
      finish(i);
    }
  } else {
    float d1[HeadDim / 2];
    load(i);
    next_odds();
    start(d0, 0);
    products_wait<0>();
    settle(d0);
    loaded(i);
    for (;; i += 2) {
      start(d1, 1);
      use(d0, 0);
      products_wait<0>();
      settle(d1);
      if constexpr (Heads == 4) {
        start(d0, 2);
        use(d1, 1);
        products_wait<0>();
        settle(d0);
        start(d1, 3);
        use(d0, 2);
        products_wait<0>();
        settle(d1);
      }
      if (i + 2 >= count) break;
      load(i + 2);
      start(d0, 0);
      use(d1, Heads - 1);
      finish(i);
      next_odds();
      products_wait<0>();
      settle(d0);
      loaded(i + 2);
    }
    use(d1, Heads - 1);
    finish(i);
  }
#else
  __trap();
#endif
}

template <class Element, int HeadDim, int Heads, Triangle Form>
void launch(const FusedRemoval& removal, const float* center, const float* odds, float tau, float* error,
            int multiprocessors, cudaStream_t stream) {
  Job job{};
  job.columns = static_cast<int>(removal.columns);
  job.tiles = (job.columns + tile_tokens - 1) / tile_tokens;
  job.group = removal.group;
  job.head_blocks = (removal.group + Heads - 1) / Heads;
  job.splits = std::clamp(multiprocessors / (removal.kv_heads * job.head_blocks), 1, job.tiles);
  job.value_scale = removal.value_scale;
  job.tau = tau;
  const CUtensorMap values = map_rows(removal.value, std::is_same_v<Element, __nv_bfloat16>, HeadDim, removal.columns,
                                      removal.kv_heads, removal.head_stride / HeadDim, tile_tokens);
  const CUtensorMap factors =
      map_rows(removal.factor, false, HeadDim, HeadDim, removal.kv_heads * removal.group, HeadDim, HeadDim);
  const auto kernel = removal_error_kernel<Element, HeadDim, Heads, Form>;
  constexpr int bytes = Memory<HeadDim, Heads>::bytes;
  allow_shared_memory(kernel, bytes);
  const dim3 grid(static_cast<unsigned>(job.splits), static_cast<unsigned>(removal.kv_heads * job.head_blocks));
  kernel<<<grid, tile_threads, bytes, stream>>>(values, factors, job, removal.factor_unit, center, odds, error);
  check_launch("removal errors (wgmma)");
}

}  // namespace

bool supports(const FusedRemoval& removal) {
  const auto aligned = [](const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; };
  return fused_removal_supported(removal.type, removal.dim) && removal.kv_heads > 0 && removal.group > 0 &&
         removal.columns > 0 && removal.columns < (1 << 30) && removal.head_stride % removal.dim == 0 &&
         aligned(removal.value) && aligned(removal.factor) && available();
}

void removal_error(const FusedRemoval& removal, const float* center, const float* odds, float tau, float* error,
                   int multiprocessors, cudaStream_t stream, Triangle form) {
  with_half_dim_and_heads(removal.type, removal.dim, removal.group, [&](auto element, auto dim, auto heads) {
    using Element = decltype(element);
    const auto with = [&](auto chosen) {
      launch<Element, dim.value, heads.value, chosen.value>(removal, center, odds, tau, error, multiprocessors, stream);
    };
    if (!removal.triangular) return with(std::integral_constant<Triangle, Triangle::none>{});
    if constexpr (std::is_same_v<Element, __half> && dim.value == 128 && heads.value == 4)
      if (form == Triangle::quarters) return with(std::integral_constant<Triangle, Triangle::quarters>{});
    with(std::integral_constant<Triangle, Triangle::half_and_quarters>{});
  });
}

}  // namespace kvreplay::cuda::hopper
