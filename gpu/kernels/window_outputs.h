// Outputs of the window's rows on Hopper's tensor cores, from statistics that a first pass over the keys left: o = Σ a v,
// and, of a row in which one key has nearly everything, the mean of all others, which o would have lost to rounding.
#pragma once

#include "gpu/kernels/window_fused.h"

namespace kvreplay::cuda {

// Rows whose largest weight is above this have it kept apart: a little above 1/2, so that a weight of such a row that is
// above 1/2 is the largest, whatever it was rounded to.
inline constexpr float dominance = 0.501F;

struct WindowOutputs {
  float* output = nullptr;  // [Hq, W, d]: Σ a v over every key that the row sees
  // [Hq, W, d]: of dominated rows Σ a v / Σ a without the dominant key, Σ a counting as least_rest (removal_error.h) at
  // least; of others `output`
  float* others = nullptr;
  std::int32_t* column = nullptr;  // [Hq, W]: of the dominant key, counted from position `low`; -1
};

// Where hopper::supports(FusedWindow) (window_hopper.h); values are of the keys' type and aligned to 16 bytes. value: of the
// first KV head's position `low`, heads value_head_stride elements apart.
std::int64_t window_outputs_scratch_bytes(const FusedWindow& window, int multiprocessors);
void launch_window_outputs(const FusedWindow& window, const RowStatistics& statistics, const void* value,
                           std::int64_t value_head_stride, const WindowOutputs& out, void* scratch, int multiprocessors,
                           cudaStream_t stream);

}  // namespace kvreplay::cuda
