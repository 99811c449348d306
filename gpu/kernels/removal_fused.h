// Removal errors of attention that was averaged over the window, on tensor cores: R_h v is formed, compared and forgotten in
// registers, so the projected values [T, Hq, d] never exist.
//
// Values are read once for up to four query heads. 2 · Hq · n · d² operations (137 GFLOP at 131,072 tokens, 32 heads and
// d = 128; an upper triangular R leaves out three eighths of them), bound by the tensor cores.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/base/element_type.h"

namespace kvreplay::cuda {

bool fused_removal_supported(ElementType type, int dim);

struct FusedRemoval {
  const void* value = nullptr;  // of the first KV head's candidate 0
  ElementType type = ElementType::float16;
  std::int64_t head_stride = 0;  // elements
  int kv_heads = 0, group = 0, dim = 0;
  std::int64_t columns = 0;  // n
  // [Hq, d, d] float16: R_h · 2^k, and 2^-k of each head. bfloat16 values are multiplied by value_scale, a power of two, and
  // rounded to float16 (exactly, unless they are 2^14 times smaller than the largest).
  const void* factor = nullptr;
  const float* factor_unit = nullptr;
  bool triangular = false;
  float value_scale = 1;
  bool hopper = true;  // the wgmma rung where it can run (removal_hopper.h); false: always mma.sync
};

// Rounds factors [heads, d, d] float32 to float16 with a power of two for each head that puts the largest near 2^10.
void launch_round_factor(const float* factor, std::int64_t heads, int dim, void* rounded, float* unit, cudaStream_t stream);

// *largest = max |element|, as the bits of a float; it must hold 0 before.
void launch_largest_magnitude(const void* elements, ElementType type, std::int64_t count, unsigned* largest,
                              cudaStream_t stream);

// output [Hq, d] = Σ_{c < columns} mean[h, c] · v_c, float32 within 256 columns and float64 over them; center [Hq, d] the
// same times value_scale through the rounded factor. partial: mean_output_partial_count() floats.
std::int64_t mean_output_partial_count(const FusedRemoval& removal, std::int64_t columns);
void launch_mean_center(const FusedRemoval& removal, const float* mean, std::int64_t mean_stride, std::int64_t columns,
                        float* partial, float* output, float* center, cudaStream_t stream);

// error [Hq, n] = odds · ‖R_h (o - v)‖^tau; odds null: 1.
void launch_fused_removal_error(const FusedRemoval& removal, const float* center, const float* odds, float tau, float* error,
                                int multiprocessors, cudaStream_t stream);

}  // namespace kvreplay::cuda
