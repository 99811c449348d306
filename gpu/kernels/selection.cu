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

constexpr int histogram_bins = (1 << 13) + (1 << 10) + (1 << 9);
constexpr unsigned list_capacity = 512;

struct ClusterScratch {
  alignas(16) unsigned histogram[histogram_bins];
  unsigned counts[most_keys_of_thread * warps];  // of a warp's keys, round by round: above the threshold, equal << 16
  unsigned sums[warp_size];
  unsigned bin, above, in_bin;
  unsigned totals[2];  // above and equal in this block
  unsigned long long sum;
  // Of the cluster's first block: the candidates for the last place, and the one that has it.
  unsigned list_size;
  unsigned long long list[list_capacity], cutoff;
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
namespace cg = cooperative_groups;

// The digits of a key, from the top. The first has many bins, since attention weights lie in few binades: with four bins a
// binade the additions to shared memory would wait for each other.
constexpr int digit_shift[3] = {19, 9, 0}, digit_bits[3] = {13, 10, 9};
constexpr int histogram_start[4] = {0, 1 << 13, (1 << 13) + (1 << 10), (1 << 13) + (1 << 10) + (1 << 9)};
static_assert(histogram_bins == histogram_start[3]);

// order_key() in fewer instructions.
__device__ inline unsigned fast_order_key(float score) {
  const auto bits = static_cast<int>(__float_as_uint(score + 0.0F));  // -0 becomes +0
  const unsigned key = static_cast<unsigned>(bits) ^ (static_cast<unsigned>(bits >> 31) | 0x80000000U);
  return score != score ? 0xffffffffU : key;
}

// The part of a row that a block has, `count` keys for each thread: key i of thread t is column base + i · 1024 + t. Past
// the end keys are 0, below that of any score, so they are never selected.
template <int count>
class ClusterRow {
 public:
  __device__ ClusterRow(const float* row, std::int64_t columns, ClusterScratch& scratch)
      : scratch_(scratch), base_(static_cast<int>(cg::this_cluster().block_rank()) * count * threads) {
#pragma unroll
    for (int i = 0; i < count; ++i) key_[i] = column(i) < columns ? fast_order_key(row[column(i)]) : 0;
    for (int i = static_cast<int>(threadIdx.x); i < histogram_bins; i += threads) scratch.histogram[i] = 0;
    if (threadIdx.x == 0) scratch.list_size = 0;
    __syncthreads();
  }

  __device__ int column(int i) const { return base_ + i * threads + static_cast<int>(threadIdx.x); }
  __device__ unsigned key(int i) const { return key_[i]; }

  // Key and column as one number that is larger for what is selected first: no two are equal.
  __device__ unsigned long long place(int i, bool highest) const {
    const auto c = static_cast<unsigned>(column(i));
    return static_cast<unsigned long long>(key_[i]) << 32 | (highest ? c : ~c);
  }

  // The smallest place() that is selected. False where too many keys share the leading digits of the last one: then
  // `threshold` says as much as is known.
  __device__ bool find_cutoff(std::int64_t wanted, bool highest, unsigned long long& cutoff, Threshold& threshold) {
    const cg::cluster_group cluster = cg::this_cluster();
    Search search{0, 0, static_cast<unsigned>(wanted)};
    find_digit<0>(search);
    if (scratch_.in_bin > list_capacity) find_digit<1>(search);
    if (scratch_.in_bin > list_capacity) {
      find_digit<2>(search);
      threshold = {search.prefix, static_cast<std::int64_t>(search.left)};
      return false;
    }
    unsigned* size = cluster.map_shared_rank(&scratch_.list_size, 0);
    unsigned long long* list = cluster.map_shared_rank(scratch_.list, 0);
#pragma unroll
    for (int i = 0; i < count; ++i)
      if ((key_[i] & search.mask) == search.prefix) list[atomicAdd(size, 1U)] = place(i, highest);
    cluster.sync();
    if (cluster.block_rank() == 0) {
      const unsigned entries = scratch_.list_size;
      if (threadIdx.x < entries) {
        const unsigned long long mine = scratch_.list[threadIdx.x];
        unsigned before = 0;
        for (unsigned other = 0; other < entries; ++other) before += scratch_.list[other] > mine ? 1U : 0U;
        if (before + 1 == search.left) scratch_.cutoff = mine;
      }
    }
    cluster.sync();
    cutoff = *cluster.map_shared_rank(&scratch_.cutoff, 0);
    return true;
  }

  // Σ over the cluster's blocks, for every thread.
  __device__ unsigned long long cluster_sum(unsigned long long value, unsigned long long* sums) {
    const cg::cluster_group cluster = cg::this_cluster();
    value = block_sum(value, sums);
    if (threadIdx.x == 0) scratch_.sum = value;
    cluster.sync();
    unsigned long long total = 0;
#pragma unroll
    for (unsigned block = 0; block < most_blocks_of_cluster; ++block)
      if (block < cluster.num_blocks()) total += *cluster.map_shared_rank(&scratch_.sum, block);
    cluster.sync();  // nobody leaves, or writes again, while others read its memory
    return total;
  }

  // Calls body(i, chosen keys of the row before this one, doubtful ones before it, doubtful ones of the row) for each of the
  // thread's keys that is chosen or doubtful.
  template <class Chosen, class Doubtful, class Body>
  __device__ void rank(Chosen&& is_chosen, Doubtful&& is_doubtful, Body&& body) {
    const cg::cluster_group cluster = cg::this_cluster();
    const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const auto chosen = static_cast<unsigned>(__popc(__ballot_sync(all_lanes, is_chosen(i))));
      const auto doubtful = static_cast<unsigned>(__popc(__ballot_sync(all_lanes, is_doubtful(i))));
      if (lane == 0) scratch_.counts[i * warps + warp] = chosen | doubtful << 16;
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
    unsigned chosen_before = 0, doubtful_before = 0, doubtful_total = 0;
#pragma unroll
    for (unsigned block = 0; block < most_blocks_of_cluster; ++block) {
      if (block >= cluster.num_blocks()) continue;
      const unsigned* other = cluster.map_shared_rank(scratch_.totals, block);
      const unsigned chosen = other[0], doubtful = other[1];
      if (block < cluster.block_rank()) {
        chosen_before += chosen;
        doubtful_before += doubtful;
      }
      doubtful_total += doubtful;
    }
    const unsigned below_lane = (1U << lane) - 1;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const bool mine = is_chosen(i), perhaps = is_doubtful(i);
      const unsigned chosen = __ballot_sync(all_lanes, mine), doubtful = __ballot_sync(all_lanes, perhaps);
      if (!mine && !perhaps) continue;
      const unsigned packed = scratch_.counts[i * warps + warp];
      body(i, chosen_before + (packed & 0xffffU) + static_cast<unsigned>(__popc(chosen & below_lane)),
           doubtful_before + (packed >> 16) + static_cast<unsigned>(__popc(doubtful & below_lane)), doubtful_total);
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
        scratch_.in_bin = in_bin[i];
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
  std::int32_t* out = kept + h * capacity;
  unsigned long long cutoff = 0;
  Threshold threshold{};
  if (row.find_cutoff(wanted, false, cutoff, threshold)) {
    row.rank([&](int i) { return row.place(i, false) >= cutoff; }, [](int) { return false; },
             [&](int i, unsigned before, unsigned, unsigned) { out[before] = row.column(i); });
    return;
  }
  const auto ties = static_cast<unsigned>(threshold.ties);
  row.rank([&](int i) { return row.key(i) > threshold.key; }, [&](int i) { return row.key(i) == threshold.key; },
           [&](int i, unsigned above, unsigned equal, unsigned) {
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
  unsigned long long cutoff = 0;
  Threshold threshold{};
  unsigned sum = 0;  // of at most 32 columns below 2^18
  if (row.find_cutoff(count, highest, cutoff, threshold)) {
#pragma unroll
    for (int i = 0; i < keys_of_thread; ++i)
      if (row.place(i, highest) >= cutoff) sum += static_cast<unsigned>(row.column(i));
  } else {
    const auto ties = static_cast<unsigned>(threshold.ties);
    row.rank([&](int i) { return row.key(i) > threshold.key; }, [&](int i) { return row.key(i) == threshold.key; },
             [&](int i, unsigned, unsigned equal, unsigned equal_of_row) {
               const unsigned rank = highest ? equal_of_row - 1 - equal : equal;
               if (row.key(i) > threshold.key || rank < ties) sum += static_cast<unsigned>(row.column(i));
             });
  }
  const unsigned long long total = row.cluster_sum(sum, sums);
  if (cg::this_cluster().block_rank() == 0 && threadIdx.x == 0)
    mean[h] = static_cast<double>(total) / static_cast<double>(count);
#endif
}

// How a row is spread over a cluster; keys_of_thread 0: it is too long, or the device has no clusters.
struct ClusterPlan {
  int blocks = 1, keys_of_thread = 0;
};

// At most `preferred` keys a thread where a cluster can be large enough for that.
ClusterPlan plan_cluster(std::int64_t rows, std::int64_t columns, int preferred) {
  int device = 0, clusters = 0, multiprocessors = 0;
  check(cudaGetDevice(&device), "asking for the current device");
  check(cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, device), "asking whether the device has clusters");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "asking for the multiprocessors");
  if (clusters == 0 || columns > std::int64_t{most_blocks_of_cluster} * most_keys_of_thread * threads) return {};
  ClusterPlan plan;
  const auto each = [&] {
    return (columns + std::int64_t{plan.blocks} * threads - 1) / (std::int64_t{plan.blocks} * threads);
  };
  while (plan.blocks < most_blocks_of_cluster && each() > preferred) plan.blocks *= 2;
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
  const ClusterPlan plan = plan_cluster(rows, columns, 16);
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
  const ClusterPlan plan = plan_cluster(rows, columns, most_keys_of_thread);
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
