// Removal errors of every window query, a / (1 - a) · ‖R (o - v)‖, on Hopper's tensor cores. Neither the weights nor the
// errors [Hq, W, n] need to be written: sums over the window, and over a group's heads, are formed in registers.
//
// Around a center c̄ = R ō of each head (ō the mean of the window's outputs), with δ = R o - c̄:
//
//   ‖R v - R o‖² = ‖R v - c̄‖² - 2 v · Rᵀδ + (2 c̄ · δ + ‖δ‖²)
//
// so a query adds one product with the values, 2 d operations an error, to what removal_fused.h computes for each head. Rᵀδ
// is the sum of two 16-bit numbers (twice that), R the rounded factor throughout. Float32 leaves such a difference an error
// of 2^-22 of its terms:
//   - the dominant key of a row (a above 1/2) gets a · ‖R (o' - v)‖, o' being the mean of the others, a number of its own;
//   - columns where a squared distance comes below 2^-12 of ‖R v - c̄‖², repeated values as a rule, are computed again from
//     projected values, with their whole tile.
//
// 2 · Hq · n · d · (3 W + d) operations with the distances to the centers: 241 GFLOP at 131,072 tokens, 32 heads, d = 128
// and W = 32, beside 3 · Hq · n · W numbers of the special function units. Bound by these two, and keys and values read
// once.
#pragma once

#include "gpu/kernels/removal_fused.h"
#include "gpu/kernels/window_outputs.h"

namespace kvreplay::cuda {

struct WindowRemoval {
  FusedWindow window;
  FusedRemoval removal;  // of the same layer: columns are the candidates, the last of the window's columns
  RowStatistics statistics;
  bool normalize = false;  // divided by ‖R o‖
};

// Two-byte keys and values of one type, W <= 32, d = 64 or 128, no cap, a device of compute capability 9.0 and code for it.
bool window_removal_supported(const WindowRemoval& removal);

// What every sum over the rows starts from.
struct PreparedRemoval {
  static constexpr int slot_rows = 32;
  struct alignas(16) Row {
    float offset, slope;   // ‖R v - R o‖² = ‖R v - center‖² + offset + slope · (v · direction)
    float inverse_length;  // 1 / ‖R o‖, or 1
    float dominant;        // the dominant key's error, or -1
  };
  Row* row = nullptr;         // [Hq, 32]
  void* direction = nullptr;  // [Hq, 64, d], of the values' type: rows [0, 32) rounded, rows [32, 64) what that left
  float* point = nullptr;     // [Hq, W, d]: R o
  float* center = nullptr;    // [Hq, d], as removal_fused.h has it
  float* distance = nullptr;  // [Hq, n]: ‖R v - center‖
};
// outputs: memory for the rows' outputs, which have no further use.
std::int64_t prepare_removal_scratch_bytes(const WindowRemoval& removal, int multiprocessors);
void launch_prepare_removal(const WindowRemoval& removal, const WindowOutputs& outputs, const PreparedRemoval& out,
                            void* scratch, int multiprocessors, cudaStream_t stream);

enum class RemovalSums : std::uint8_t {
  group,  // [Hk, n]: the mean over a group's query heads of Σ_w weights[w] · error
  heads,  // [Hq, n]: Σ_w weights[w] · error
  rows,   // [Hq, W, n]: weights[w] · error
};
// Weights are not negative.
std::int64_t window_removal_scratch_bytes(const WindowRemoval& removal);
void launch_window_removal(const WindowRemoval& removal, const PreparedRemoval& prepared, const RowWeights& weights,
                           RemovalSums form, float* out, void* scratch, int multiprocessors, cudaStream_t stream);

// The same without tensor cores: every tile as if it had to be computed again.
void launch_window_removal_plain(const WindowRemoval& removal, const PreparedRemoval& prepared, const RowWeights& weights,
                                 RemovalSums form, float* out, void* scratch, int multiprocessors, cudaStream_t stream);
// How many tiles the last launch with this scratch computed again. Waits for the stream.
std::int64_t repaired_tiles(const WindowRemoval& removal, const void* scratch, cudaStream_t stream);

}  // namespace kvreplay::cuda
