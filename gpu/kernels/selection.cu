#include "gpu/kernels/selection.h"

#include <cooperative_groups.h>

#include <algorithm>

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

__global__ void __launch_bounds__(threads) select_top(const float* scores, std::int64_t stride, std::int64_t columns,
                                                      const std::int64_t* count, std::int64_t capacity, std::int32_t* kept) {
  __shared__ SelectScratch scratch;
  const std::int64_t h = blockIdx.x;
  const float* row = scores + h * stride;
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

// ---- a cluster of blocks a row -----------------------------------------------------------------------------------------

constexpr int most_keys_of_thread = 32, most_blocks_of_cluster = 8;

// The digits of a key, from the top. The first has many bins, since attention weights lie in few binades: with four bins a
// binade the additions to shared memory would wait for each other.
constexpr int digit_shift[3] = {19, 9, 0}, digit_bits[3] = {13, 10, 9};
constexpr int histogram_start[4] = {0, 1 << 13, (1 << 13) + (1 << 10), (1 << 13) + (1 << 10) + (1 << 9)};

constexpr int histogram_bins = histogram_start[3];

struct ClusterScratch {
  alignas(16) unsigned histogram[histogram_bins];
  unsigned counts[most_keys_of_thread * warps];  // of a warp's keys, round by round: above the threshold, equal << 16
  unsigned sums[warp_size];
  unsigned bin, above;
  unsigned totals[2];             // above and equal in this block
  unsigned long long columns[2];  // Σ of the columns of those
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
namespace cg = cooperative_groups;

// The part of a row that a block has, `count` keys for each thread: key i of thread t is column base + i · 1024 + t. Past
// the end keys are 0, below that of any score, so they are never selected.
template <int count>
class ClusterRow {
 public:
  __device__ ClusterRow(const float* row, std::int64_t columns, ClusterScratch& scratch)
      : scratch_(scratch), base_(static_cast<int>(cg::this_cluster().block_rank()) * count * threads) {
#pragma unroll
    for (int i = 0; i < count; ++i) key_[i] = column(i) < columns ? order_key(row[column(i)]) : 0;
    for (int i = static_cast<int>(threadIdx.x); i < histogram_bins; i += threads) scratch.histogram[i] = 0;
    __syncthreads();
  }

  __device__ int column(int i) const { return base_ + i * threads + static_cast<int>(threadIdx.x); }
  __device__ unsigned key(int i) const { return key_[i]; }

  __device__ Threshold find_threshold(std::int64_t wanted) {
    Search search{0, 0, static_cast<unsigned>(wanted)};
    find_digit<0>(search);
    find_digit<1>(search);
    find_digit<2>(search);
    return {search.prefix, static_cast<std::int64_t>(search.left)};
  }

  // How many keys of the whole row equal the threshold; above, equal: Σ of the columns of those that are above it and of
  // those that equal it.
  __device__ unsigned sum_columns(unsigned threshold, unsigned long long& above, unsigned long long& equal,
                                  unsigned long long* sums) {
    const cg::cluster_group cluster = cg::this_cluster();
    unsigned long long high = 0, same = 0;
    unsigned ties = 0;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      if (key_[i] > threshold) high += static_cast<unsigned>(column(i));
      if (key_[i] == threshold) {
        same += static_cast<unsigned>(column(i));
        ++ties;
      }
    }
    high = block_sum(high, sums);
    same = block_sum(same, sums);
    ties = static_cast<unsigned>(block_sum(static_cast<unsigned long long>(ties), sums));
    if (threadIdx.x == 0) {
      scratch_.columns[0] = high;
      scratch_.columns[1] = same;
      scratch_.totals[1] = ties;
    }
    cluster.sync();
    unsigned ties_of_row = 0;
    above = equal = 0;
#pragma unroll
    for (unsigned block = 0; block < most_blocks_of_cluster; ++block)
      if (block < cluster.num_blocks()) {
        const unsigned long long* other = cluster.map_shared_rank(scratch_.columns, block);
        above += other[0];
        equal += other[1];
        ties_of_row += cluster.map_shared_rank(scratch_.totals, block)[1];
      }
    cluster.sync();  // nobody leaves, or writes again, while others read its memory
    return ties_of_row;
  }

  // Calls body(i, keys of the row above the threshold before this one, keys equal to it before, equal ones of the whole row)
  // for each of the thread's keys that is not below.
  template <class Body>
  __device__ void rank(unsigned threshold, Body&& body) {
    const cg::cluster_group cluster = cg::this_cluster();
    const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const unsigned above = __ballot_sync(all_lanes, key_[i] > threshold);
      const unsigned equal = __ballot_sync(all_lanes, key_[i] == threshold);
      if (lane == 0)
        scratch_.counts[i * warps + warp] = static_cast<unsigned>(__popc(above)) | static_cast<unsigned>(__popc(equal))
                                                                                       << 16;
    }
    __syncthreads();
    const bool has = static_cast<int>(threadIdx.x) < count * warps;
    unsigned total = 0;
    const unsigned before = block_exclusive_sum(has ? scratch_.counts[threadIdx.x] : 0, scratch_.sums, total);
    if (has) scratch_.counts[threadIdx.x] = before;
    if (threadIdx.x == 0) {
      scratch_.totals[0] = total & 0xffffU;
      scratch_.totals[1] = total >> 16;
    }
    cluster.sync();
    unsigned above_before = 0, equal_before = 0, equal_total = 0;
#pragma unroll
    for (unsigned block = 0; block < most_blocks_of_cluster; ++block) {
      if (block >= cluster.num_blocks()) continue;
      const unsigned* other = cluster.map_shared_rank(scratch_.totals, block);
      const unsigned above = other[0], equal = other[1];
      if (block < cluster.block_rank()) {
        above_before += above;
        equal_before += equal;
      }
      equal_total += equal;
    }
    const unsigned below_lane = (1U << lane) - 1;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const bool is_above = key_[i] > threshold, is_equal = key_[i] == threshold;
      const unsigned above = __ballot_sync(all_lanes, is_above), equal = __ballot_sync(all_lanes, is_equal);
      if (!is_above && !is_equal) continue;
      const unsigned packed = scratch_.counts[i * warps + warp];
      body(i, above_before + (packed & 0xffffU) + static_cast<unsigned>(__popc(above & below_lane)),
           equal_before + (packed >> 16) + static_cast<unsigned>(__popc(equal & below_lane)), equal_total);
    }
    cluster.sync();  // nobody leaves while others read its memory
  }

 private:
  struct Search {
    unsigned prefix, mask, left;  // the digits found, where they are, and the rank that is wanted among keys with them
  };

  // Thread t counts bins [bins - (t + 1) · each, bins - t · each), over all blocks of the cluster.
  template <int digit>
  __device__ void find_digit(Search& search) {
    constexpr int bins = 1 << digit_bits[digit], each = bins > threads ? bins / threads : 1, shift = digit_shift[digit],
                  start = histogram_start[digit];
    const cg::cluster_group cluster = cg::this_cluster();
    unsigned* histogram = scratch_.histogram + start;
#pragma unroll
    for (int i = 0; i < count; ++i)
      if ((key_[i] & search.mask) == search.prefix) atomicAdd(&histogram[key_[i] >> shift & (bins - 1)], 1U);
    cluster.sync();
    const int first = bins - (static_cast<int>(threadIdx.x) + 1) * each;
    unsigned in_bin[each] = {};
    if (first >= 0) {
#pragma unroll
      for (unsigned block = 0; block < most_blocks_of_cluster; ++block)
        if (block < cluster.num_blocks()) {
          const unsigned* other = cluster.map_shared_rank(histogram, block) + first;
          if constexpr (each == 8) {
            const uint4 low = *reinterpret_cast<const uint4*>(other), high = *reinterpret_cast<const uint4*>(other + 4);
            const unsigned all[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
            for (int i = 0; i < 8; ++i) in_bin[i] += all[i];
          } else {
            in_bin[0] += other[0];
          }
        }
    }
    static_assert(each == 8 || each == 1);
    unsigned mine = 0;
#pragma unroll
    for (int i = 0; i < each; ++i) mine += in_bin[i];
    unsigned total = 0;
    unsigned before = block_exclusive_sum(mine, scratch_.sums, total);
#pragma unroll
    for (int i = each - 1; i >= 0; --i) {
      if (before < search.left && search.left <= before + in_bin[i]) {
        scratch_.bin = static_cast<unsigned>(first + i);
        scratch_.above = before;
      }
      before += in_bin[i];
    }
    __syncthreads();
    search.prefix |= scratch_.bin << shift;
    search.mask |= static_cast<unsigned>(bins - 1) << shift;
    search.left -= scratch_.above;
    __syncthreads();
  }

  ClusterScratch& scratch_;
  int base_;
  unsigned key_[count];
};
#endif

template <int keys_of_thread>
__global__ void __launch_bounds__(threads)
    cluster_select_top(const float* scores, std::int64_t stride, std::int64_t columns, const std::int64_t* count,
                       std::int64_t capacity, std::int32_t* kept) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  __shared__ ClusterScratch scratch;
  const std::int64_t h = blockIdx.y;
  const std::int64_t wanted = count[h] < columns ? count[h] : columns;
  if (wanted <= 0) return;
  ClusterRow<keys_of_thread> row(scores + h * stride, columns, scratch);
  const Threshold threshold = row.find_threshold(wanted);
  const auto ties = static_cast<unsigned>(threshold.ties);
  std::int32_t* out = kept + h * capacity;
  row.rank(threshold.key, [&](int i, unsigned above, unsigned equal, unsigned) {
    if (row.key(i) > threshold.key || equal < ties) out[above + (equal < ties ? equal : ties)] = row.column(i);
  });
#endif
}

template <int keys_of_thread>
__global__ void __launch_bounds__(threads)
    cluster_mean_top_column(const float* scores, std::int64_t columns, std::int64_t count, bool highest, double* mean) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  __shared__ ClusterScratch scratch;
  __shared__ unsigned long long sums[33];
  const cg::cluster_group cluster = cg::this_cluster();
  const std::int64_t h = blockIdx.y;
  ClusterRow<keys_of_thread> row(scores + h * columns, columns, scratch);
  const Threshold threshold = row.find_threshold(count);
  const auto ties = static_cast<unsigned>(threshold.ties);
  unsigned long long above = 0, equal = 0;
  const unsigned equal_keys = row.sum_columns(threshold.key, above, equal, sums);
  if (equal_keys != ties) {  // ties at the cut: those from one end
    unsigned long long taken = 0;
    row.rank(threshold.key, [&](int i, unsigned, unsigned rank, unsigned) {
      if (row.key(i) == threshold.key && (highest ? equal_keys - 1 - rank : rank) < ties)
        taken += static_cast<unsigned>(row.column(i));
    });
    taken = block_sum(taken, sums);
    if (threadIdx.x == 0) scratch.columns[1] = taken;
    cluster.sync();
    equal = 0;
    for (unsigned block = 0; block < cluster.num_blocks(); ++block)
      equal += cluster.map_shared_rank(scratch.columns, block)[1];
    cluster.sync();
  }
  if (cluster.block_rank() == 0 && threadIdx.x == 0)
    mean[h] = static_cast<double>(above + equal) / static_cast<double>(count);
#endif
}

// How a row is spread over a cluster; keys_of_thread 0: it is too long, or the device has no clusters.
struct ClusterPlan {
  int blocks = 1, keys_of_thread = 0;
};

ClusterPlan plan_cluster(std::int64_t rows, std::int64_t columns) {
  int device = 0, clusters = 0, multiprocessors = 0;
  check(cudaGetDevice(&device), "asking for the current device");
  check(cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, device), "asking whether the device has clusters");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "asking for the multiprocessors");
  if (clusters == 0 || columns > std::int64_t{most_blocks_of_cluster} * most_keys_of_thread * threads) return {};
  ClusterPlan plan;
  const auto each = [&] {
    return (columns + std::int64_t{plan.blocks} * threads - 1) / (std::int64_t{plan.blocks} * threads);
  };
  while (each() > most_keys_of_thread) plan.blocks *= 2;
  // A few rows alone do not fill the device: more blocks for each.
  while (plan.blocks < most_blocks_of_cluster && rows * plan.blocks * 2 <= multiprocessors && each() > 4) plan.blocks *= 2;
  plan.keys_of_thread = 4;
  while (plan.keys_of_thread < each()) plan.keys_of_thread *= 2;
  return plan;
}

template <class... Parameters, class... Arguments>
void launch_clusters(void (*kernel)(Parameters...), const ClusterPlan& plan, std::int64_t rows, cudaStream_t stream,
                     Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(plan.blocks), static_cast<unsigned>(rows));
  config.blockDim = dim3(threads);
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(plan.blocks);
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "launching a selection over clusters");
}

// body(integral constant of the keys of a thread)
template <class Body>
void with_keys_of_thread(int keys, Body&& body) {
  if (keys <= 4)
    body(std::integral_constant<int, 4>{});
  else if (keys <= 8)
    body(std::integral_constant<int, 8>{});
  else if (keys <= 16)
    body(std::integral_constant<int, 16>{});
  else
    body(std::integral_constant<int, 32>{});
}

}  // namespace

void launch_select_top(const float* scores, std::int64_t rows, std::int64_t columns, const std::int64_t* count,
                       std::int64_t capacity, std::int32_t* kept, cudaStream_t stream, std::int64_t stride) {
  if (stride == 0) stride = columns;
  if (rows * columns == 0) return;
  const ClusterPlan plan = plan_cluster(rows, columns);
  if (plan.keys_of_thread > 0) {
    with_keys_of_thread(plan.keys_of_thread, [&](auto keys) {
      launch_clusters(cluster_select_top<keys.value>, plan, rows, stream, scores, stride, columns, count, capacity, kept);
    });
    return;
  }
  launch_select_top_by_blocks(scores, rows, columns, count, capacity, kept, stream, stride);
}

void launch_mean_top_column(const float* scores, std::int64_t rows, std::int64_t columns, std::int64_t count, bool highest,
                            double* mean, cudaStream_t stream) {
  if (rows == 0) return;
  const ClusterPlan plan = plan_cluster(rows, columns);
  if (plan.keys_of_thread > 0) {
    with_keys_of_thread(plan.keys_of_thread, [&](auto keys) {
      launch_clusters(cluster_mean_top_column<keys.value>, plan, rows, stream, scores, columns, count, highest, mean);
    });
    return;
  }
  launch_mean_top_column_by_blocks(scores, rows, columns, count, highest, mean, stream);
}

void launch_select_top_by_blocks(const float* scores, std::int64_t rows, std::int64_t columns, const std::int64_t* count,
                                 std::int64_t capacity, std::int32_t* kept, cudaStream_t stream, std::int64_t stride) {
  if (stride == 0) stride = columns;
  if (rows * columns == 0) return;
  select_top<<<static_cast<unsigned>(rows), threads, 0, stream>>>(scores, stride, columns, count, capacity, kept);
  check_launch("the selection of the largest scores");
}

void launch_mean_top_column_by_blocks(const float* scores, std::int64_t rows, std::int64_t columns, std::int64_t count,
                                      bool highest, double* mean, cudaStream_t stream) {
  if (rows == 0) return;
  mean_top_column<<<static_cast<unsigned>(rows), threads, 0, stream>>>(scores, columns, count, highest, mean);
  check_launch("mean columns of the largest weights");
}

}  // namespace kvreplay::cuda
