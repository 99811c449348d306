// What kernels on window attention share on Hopper: how the work is cut, which row sees which key, and the TMA's maps.
//
// A block has the query heads of one KV head (up to four) and one part of the keys. Each head has a slot of 32 rows: the
// window's queries, and zeros.
#pragma once

#include <algorithm>

#include "gpu/device.h"
#include "gpu/kernels/hopper.h"
#include "gpu/kernels/hopper_tiles.cuh"
#include "gpu/kernels/launch.cuh"
#include "gpu/kernels/window_fused.h"

namespace kvreplay::cuda::hopper {

constexpr int tile_keys = 128;  // of a tile
constexpr int slot_rows = 32;   // rows of one query head: the window, and zeros
constexpr int unit_rows = 64;   // rows of one product

// Columns count from the first key that is there; row w sees column c when c <= newest + w and, with a sliding window, when
// c > newest + w - sliding.
struct WindowJob {
  int columns, cut, window, newest, sliding;
  int kv_heads, group, heads_of_block, head_blocks;
  int tiles, splits;
  float scale;  // of products to units of log 2

#if KVREPLAY_HOPPER_CODE
  // All keys of [first, first + keys) are seen by every row of the window.
  __device__ bool all_seen(int first, int keys) const {
    return first + keys - 1 <= newest && (sliding == 0 || first > newest + window - 1 - sliding);
  }
#endif
  __device__ bool seen(int row, int column) const {
    return column < columns && column <= newest + row && (sliding == 0 || column > newest + row - sliding);
  }
};

inline WindowJob make_job(const FusedWindow& window, int multiprocessors, int heads_of_block, int keys_of_tile = tile_keys) {
  const RowShape& shape = window.shape;
  WindowJob job{};
  job.columns = static_cast<int>(shape.columns);
  job.cut = static_cast<int>(shape.cut);
  job.window = shape.window;
  job.newest = static_cast<int>(shape.first_query - shape.low);
  job.sliding = shape.sliding_window;
  job.kv_heads = window.kv_heads;
  job.group = window.group;
  job.heads_of_block = heads_of_block;
  job.head_blocks = (window.group + heads_of_block - 1) / heads_of_block;
  job.tiles = (job.columns + keys_of_tile - 1) / keys_of_tile;
  job.splits = std::clamp(multiprocessors / (window.kv_heads * job.head_blocks), 1, std::max(1, job.tiles));
  constexpr float log2_e = 1.4426950408889634F;
  job.scale = window.scale * log2_e;
  return job;
}

inline dim3 grid_of(const WindowJob& job) {
  return {static_cast<unsigned>(job.splits), static_cast<unsigned>(job.kv_heads * job.head_blocks)};
}

inline bool is_bfloat16(const FusedWindow& window) { return window.type == ElementType::bfloat16; }

// Keys or values of the window's columns, `base` being column 0 of the first KV head.
inline CUtensorMap map_columns(const FusedWindow& window, const void* base, std::int64_t head_stride, int box_rows) {
  return map_rows(base, is_bfloat16(window), window.dim, window.shape.columns, window.kv_heads, head_stride / window.dim,
                  box_rows);
}
// Rows past the window read as 0.
inline CUtensorMap map_queries(const FusedWindow& window) {
  return map_rows(window.query, is_bfloat16(window), window.dim, window.shape.window, window.kv_heads * window.group,
                  window.shape.window, slot_rows);
}

template <class Body>
void dispatch(const FusedWindow& window, Body&& body) {
  with_half_and_dim(window.type, window.dim, body);
}
template <class Body>
void dispatch_heads(const FusedWindow& window, const WindowJob& job, Body&& body) {
  with_half_dim_and_heads(window.type, window.dim, job.heads_of_block, body);
}

#if KVREPLAY_HOPPER_CODE

// The row of a product, or of its first 8, of which this thread has elements.
__device__ inline int lane_row() { return threadIdx.x % warpgroup_threads / 32 * 16 + threadIdx.x % 32 / 4; }

// The tiles of a block: part blockIdx.x of the keys.
struct Part {
  int begin, count;
  __device__ explicit Part(const WindowJob& job) {
    const auto tile_of = [&](int part) {
      return static_cast<int>(static_cast<std::int64_t>(job.tiles) * part / job.splits);
    };
    begin = tile_of(static_cast<int>(blockIdx.x));
    count = tile_of(static_cast<int>(blockIdx.x) + 1) - begin;
  }
};

#endif  // KVREPLAY_HOPPER_CODE

}  // namespace kvreplay::cuda::hopper
