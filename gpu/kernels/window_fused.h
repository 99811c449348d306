// Window attention on tensor cores, never written out: statistics of each row in one pass over the keys, and what scores
// need of the weights in a second one. For float16 and bfloat16 keys, W <= 32, d = 64 or 128.
//
// Keys are read once a pass for all query heads of their group: 2 · Hk · T · d bytes, 63 µs at 131,072 tokens, 8 KV heads,
// d = 128 and 4.27 TB/s. Two rungs: mma.sync for sm_80 and later, which waits for its own copies and exponentials; and
// wgmma for sm_90a, where copies, products and exponentials overlap (window_hopper.h).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/base/element_type.h"
#include "gpu/kernels/window_rows.h"

namespace kvreplay::cuda {

bool fused_window_supported(ElementType type, int dim, int window);

struct FusedWindow {
  const void* query = nullptr;  // [Hq, W, d]
  const void* key = nullptr;    // of the first KV head's position `low`; the columns' keys, then other positions
  ElementType type = ElementType::float16;
  std::int64_t key_head_stride = 0;  // elements
  int kv_heads = 0, group = 0, dim = 0;
  float scale = 1, cap = 0;
  RowShape shape;
  bool hopper = true;  // the wgmma rung where it can run (window_hopper.h); false: always mma.sync
};

// What the first pass leaves of each row, [Hq, W] each. Logits are in units of log 2.
struct RowStatistics {
  float* top = nullptr;         // the largest logit
  float* inverse = nullptr;     // 1 / Σ exp2(logit - top)
  float* complement = nullptr;  // 1 - the largest weight, summed from the others
};

std::int64_t statistics_scratch_bytes(const FusedWindow& window, int multiprocessors);
void launch_window_statistics(const FusedWindow& window, const RowStatistics& out, void* scratch, int multiprocessors,
                              cudaStream_t stream);

// Of the W window queries, the oldest first; passed to kernels by value.
struct RowWeights {
  float value[32] = {};
};

// mean [Hq, n] = Σ_w weights[w] · weight[h, w, c]; odds [Hq, n], unless null, is mean / (1 - mean), where 1 - mean is summed
// from the rows' own 1 - weight when the mean is above 1/2. n = columns - cut.
void launch_window_sums(const FusedWindow& window, const RowStatistics& statistics, const RowWeights& weights, float* mean,
                        float* odds, int multiprocessors, cudaStream_t stream);

// rows [Hk, W, n]: the mean over each group of query heads (or the largest).
void launch_window_group_rows(const FusedWindow& window, const RowStatistics& statistics, bool largest, float* rows,
                              int multiprocessors, cudaStream_t stream);

// rows [Hq, W, n]: the weights themselves. False, and nothing is done, where no kernel writes them faster than the plain
// form.
bool launch_window_rows(const FusedWindow& window, const RowStatistics& statistics, float* rows, int multiprocessors,
                        cudaStream_t stream);

}  // namespace kvreplay::cuda
