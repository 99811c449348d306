// Window attention on Hopper's asynchronous tensor cores: the rung above the mma.sync kernels of window_fused.h, with the
// same results. Called through window_fused.h only.
//
// What it changes: keys arrive by the TMA, up to four tiles ahead; products run in the background while the exponentials of
// the tile before are summed; and the second pass has keys as the rows of the product, so that sums over the window and over
// a group's heads stay inside a thread.
#pragma once

#include "gpu/kernels/window_fused.h"

namespace kvreplay::cuda::hopper {

// Two-byte elements, W <= 32, d = 64 or 128, a positive scale, no cap, no negative weights, rows aligned to 16 bytes, a
// device of compute capability 9.0 and code for it.
bool supports(const FusedWindow& window);
bool supports(const RowWeights& weights, int window);

std::int64_t window_statistics_scratch_bytes(const FusedWindow& window, int multiprocessors);
void window_statistics(const FusedWindow& window, const RowStatistics& out, void* scratch, int multiprocessors,
                       cudaStream_t stream);
void window_sums(const FusedWindow& window, const RowStatistics& statistics, const RowWeights& weights, float* mean,
                 float* odds, int multiprocessors, cudaStream_t stream);
// Groups of at most four heads.
void window_group_rows(const FusedWindow& window, const RowStatistics& statistics, bool largest, float* rows,
                       int multiprocessors, cudaStream_t stream);

void window_rows(const FusedWindow& window, const RowStatistics& statistics, float* rows, int multiprocessors,
                 cudaStream_t stream);

}  // namespace kvreplay::cuda::hopper
