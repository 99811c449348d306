// What the attention kernels are told about one layer's queries and keys.
//
// Symbols: Hq query heads, Hk KV heads, G = Hq / Hk, d head dimension. Rows of a head are contiguous, d elements each.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#if defined(__CUDACC__)
#define KVREPLAY_HOST_DEVICE __host__ __device__
#else
#define KVREPLAY_HOST_DEVICE
#endif

namespace kvreplay::cuda {

// Kernels take powers of 2.
inline constexpr double log2_of_e = 1.4426950408889634;
inline constexpr double ln_of_2 = 0.6931471805599453;

// Query row r of every head stands at position first_position + r and sees the keys from its sliding window's first one up
// to its own position, all of which are below `keys`.
//
//   prompt queries:  queries = P, first_position = 0, keys = P
//   decode queries:  queries = S, first_position = P, keys = T
struct AttentionShape {
  int query_heads = 0, kv_heads = 0, head_dim = 0;
  std::int64_t queries = 0;         // rows of each query head
  std::int64_t first_position = 0;  // of row 0
  std::int64_t keys = 0;            // tokens that may be seen at all
  std::int64_t query_stride = 0;    // rows from one query head to the next
  std::int64_t key_stride = 0;      // rows from one KV head to the next, of keys and of values
  double scale = 1;                 // logits are scale · q·k
  double softcap = 0;               // 0: none
  std::int64_t sliding_window = 0;  // 0: none
  // Queries at positions before this one see every key, also later ones (ColumnMask::full_before_window: P - W).
  std::int64_t full_before = 0;

  int group() const { return query_heads / kv_heads; }
};

// Which query sees which key, in 32-bit arithmetic; the one place where kernels ask.
struct Visibility {
  int first_position, queries, keys, window, full_before;

  static Visibility of(const AttentionShape& shape) {
    return {static_cast<int>(shape.first_position), static_cast<int>(shape.queries), static_cast<int>(shape.keys),
            shape.sliding_window > 0 ? static_cast<int>(shape.sliding_window) : std::numeric_limits<int>::max(),
            static_cast<int>(shape.full_before)};
  }

  KVREPLAY_HOST_DEVICE bool operator()(int query, int key) const {
    const int position = first_position + query;
    return query < queries && key < keys && (key <= position || position < full_before) && position - key < window;
  }
  // Every query row of [query, query + rows) sees every key of [key, key + columns). Rows and keys past the end do not
  // count.
  KVREPLAY_HOST_DEVICE bool all(int query, int rows, int key, int columns) const {
    const int first = first_position + query, last = first + rows - 1;
    return (key + columns - 1 <= first || last < full_before) && last - key < window;
  }
  // Keys [begin, end) that some query row of [query, query + rows) sees.
  KVREPLAY_HOST_DEVICE int key_begin(int query) const {
    const int position = first_position + query;
    return window > position ? 0 : position - window + 1;
  }
  KVREPLAY_HOST_DEVICE int key_end(int query, int rows) const {
    const int past = first_position + query + rows;
    return first_position + query < full_before || past > keys ? keys : past;
  }
  // Query rows [begin, end) of which some see a key of [key, key + columns).
  KVREPLAY_HOST_DEVICE int query_begin(int key) const {
    return full_before > first_position || key < first_position ? 0 : key - first_position;
  }
  KVREPLAY_HOST_DEVICE int query_end(int key, int columns) const {
    const std::int64_t past = static_cast<std::int64_t>(key) + columns - 1 + window - first_position;
    return past < 0 ? 0 : past < queries ? static_cast<int>(past) : queries;
  }
};

}  // namespace kvreplay::cuda
