#include "gpu/kernels/selection.h"

#include "gpu/device.h"
#include "gpu/kernels/elements.cuh"

namespace kvreplay::cuda {
namespace {

constexpr int threads = 1024, warps = threads / warp_size;
constexpr int digit_bins = 2048;

struct Threshold {
  unsigned key;       // the smallest that is kept
  std::int64_t ties;  // how many of those that equal it are kept
};

// Exclusive prefix sum over the block in thread order, and the block's total.
__device__ unsigned block_exclusive_sum(unsigned value, unsigned* scratch, unsigned& total) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  unsigned inclusive = value;
  for (int offset = 1; offset < warp_size; offset *= 2) {
    const unsigned below = __shfl_up_sync(all_lanes, inclusive, offset);
    if (lane >= offset) inclusive += below;
  }
  __syncthreads();
  if (lane == warp_size - 1) scratch[warp] = inclusive;
  __syncthreads();
  if (warp == 0) {
    unsigned sum = lane < warps ? scratch[lane] : 0;
    for (int offset = 1; offset < warp_size; offset *= 2) {
      const unsigned below = __shfl_up_sync(all_lanes, sum, offset);
      if (lane >= offset) sum += below;
    }
    scratch[lane] = sum;
  }
  __syncthreads();
  total = scratch[warps - 1];
  return inclusive - value + (warp > 0 ? scratch[warp - 1] : 0);
}

struct SelectScratch {
  unsigned histogram[digit_bins];
  unsigned sums[warp_size];
  unsigned bin;
  unsigned above;
};

// The key of rank `count` (1 is the largest), by digits from the top. Every thread gets it.
__device__ Threshold find_threshold(const float* row, std::int64_t columns, std::int64_t count, SelectScratch& scratch) {
  constexpr int rounds = 3;
  constexpr int shifts[rounds] = {21, 10, 0}, bits[rounds] = {11, 11, 10};
  unsigned prefix = 0, mask = 0;
  auto left = static_cast<unsigned>(count);
  for (int round = 0; round < rounds; ++round) {
    const int shift = shifts[round];
    const unsigned digit_mask = (1U << bits[round]) - 1;
    for (int i = static_cast<int>(threadIdx.x); i < digit_bins; i += threads) scratch.histogram[i] = 0;
    __syncthreads();
    for (std::int64_t c = threadIdx.x; c < columns; c += threads) {
      const unsigned key = order_key(row[c]);
      if ((key & mask) == prefix) atomicAdd(&scratch.histogram[key >> shift & digit_mask], 1U);
    }
    __syncthreads();
    // Thread t has the two bins below the t-th pair from the top.
    const int high = digit_bins - 1 - 2 * static_cast<int>(threadIdx.x);
    const unsigned first = scratch.histogram[high], second = scratch.histogram[high - 1];
    unsigned total = 0;
    const unsigned before = block_exclusive_sum(first + second, scratch.sums, total);
    if (before < left && left <= before + first) {
      scratch.bin = static_cast<unsigned>(high);
      scratch.above = before;
    } else if (before + first < left && left <= before + first + second) {
      scratch.bin = static_cast<unsigned>(high) - 1;
      scratch.above = before + first;
    }
    __syncthreads();
    prefix |= scratch.bin << shift;
    mask |= digit_mask << shift;
    left -= scratch.above;
    __syncthreads();
  }
  return {prefix, static_cast<std::int64_t>(left)};
}

__global__ void __launch_bounds__(threads) select_top(const float* scores, std::int64_t columns, const std::int64_t* count,
                                                      std::int64_t capacity, std::int32_t* kept) {
  __shared__ SelectScratch scratch;
  const std::int64_t h = blockIdx.x;
  const float* row = scores + h * columns;
  const std::int64_t wanted = count[h] < columns ? count[h] : columns;
  if (wanted <= 0) return;
  const Threshold threshold = find_threshold(row, columns, wanted, scratch);
  std::int32_t* out = kept + h * capacity;
  const auto ties = static_cast<unsigned>(threshold.ties);
  unsigned above_before = 0, equal_before = 0;
  for (std::int64_t first = 0; first < columns; first += threads) {
    const std::int64_t c = first + threadIdx.x;
    const unsigned key = c < columns ? order_key(row[c]) : 0;
    const bool above = c < columns && key > threshold.key, equal = c < columns && key == threshold.key;
    unsigned total = 0;
    const unsigned before = block_exclusive_sum((above ? 1U : 0U) | (equal ? 1U << 16 : 0U), scratch.sums, total);
    const unsigned equal_rank = equal_before + (before >> 16), above_rank = above_before + (before & 0xffffU);
    if (above || (equal && equal_rank < ties))
      out[above_rank + (equal_rank < ties ? equal_rank : ties)] = static_cast<std::int32_t>(c);
    above_before += total & 0xffffU;
    equal_before += total >> 16;
  }
}

__global__ void __launch_bounds__(threads)
    mean_top_column(const float* scores, std::int64_t columns, std::int64_t count, bool highest, double* mean) {
  __shared__ SelectScratch scratch;
  __shared__ unsigned long long sums[33];
  const float* row = scores + static_cast<std::int64_t>(blockIdx.x) * columns;
  const Threshold threshold = find_threshold(row, columns, count, scratch);
  unsigned long long above = 0, equal = 0;
  for (std::int64_t c = threadIdx.x; c < columns; c += threads)
    if (order_key(row[c]) > threshold.key) above += static_cast<unsigned long long>(c);
  above = block_sum(above, sums);
  // Ties from one end, in order, until there are enough.
  const auto ties = static_cast<unsigned>(threshold.ties);
  unsigned taken = 0;
  for (std::int64_t first = 0; first < columns && taken < ties; first += threads) {
    const std::int64_t at = first + threadIdx.x, c = highest ? columns - 1 - at : at;
    const bool tie = at < columns && order_key(row[c]) == threshold.key;
    unsigned total = 0;
    const unsigned before = block_exclusive_sum(tie ? 1U : 0U, scratch.sums, total);
    if (tie && taken + before < ties) equal += static_cast<unsigned long long>(c);
    taken += total;
  }
  equal = block_sum(equal, sums);
  if (threadIdx.x == 0) mean[blockIdx.x] = static_cast<double>(above + equal) / static_cast<double>(count);
}

}  // namespace

void launch_select_top(const float* scores, std::int64_t rows, std::int64_t columns, const std::int64_t* count,
                       std::int64_t capacity, std::int32_t* kept, cudaStream_t stream) {
  if (rows * columns == 0) return;
  select_top<<<static_cast<unsigned>(rows), threads, 0, stream>>>(scores, columns, count, capacity, kept);
  check_launch("the selection of the largest scores");
}

void launch_mean_top_column(const float* scores, std::int64_t rows, std::int64_t columns, std::int64_t count, bool highest,
                            double* mean, cudaStream_t stream) {
  if (rows == 0) return;
  mean_top_column<<<static_cast<unsigned>(rows), threads, 0, stream>>>(scores, columns, count, highest, mean);
  check_launch("mean columns of the largest weights");
}

}  // namespace kvreplay::cuda
