#include "gpu/kernels/evaluate_rank.h"

#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>

#include <algorithm>
#include <cub/device/device_segmented_radix_sort.cuh>

#include "gpu/device.h"
#include "gpu/kernels/elements.cuh"
#include "gpu/kernels/selection.h"

namespace kvreplay::cuda {
namespace {

constexpr int threads = 256;
constexpr std::int64_t sorted_at_once = std::int64_t{1} << 24;  // elements: 16 bytes of scratch for each

struct SegmentStart {
  int length;
  __host__ __device__ int operator()(int segment) const { return segment * length; }
};

auto segment_starts(int length, int first) {
  return thrust::make_transform_iterator(thrust::counting_iterator<int>(first), SegmentStart{length});
}

// What is sorted of each row: the selected ones, where they are few enough for that to be worth it.
struct SortPlan {
  bool selected = false;
  int width = 0;  // sorted elements of a row
  int rows = 0;   // at once
};

SortPlan plan_sort(const EvaluationBlock& block, int needed) {
  SortPlan plan;
  plan.selected = needed <= block.columns / 4;
  plan.width = plan.selected ? needed : block.columns;
  plan.rows =
      static_cast<int>(std::clamp<std::int64_t>(sorted_at_once / std::max(plan.width, 1), 1, std::max(block.rows(), 1)));
  return plan;
}

std::size_t aligned(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

struct Scratch {
  std::int64_t* count = nullptr;
  std::uint32_t *key = nullptr, *sorted_key = nullptr;
  std::int32_t *column = nullptr, *sorted_column = nullptr;
  void* sorting = nullptr;
  std::size_t sorting_bytes = 0, bytes = 0;
};

// Stable: among equal keys the lowest position stays first.
void sort(const Scratch& scratch, const SortPlan& plan, int rows, std::size_t& bytes, cudaStream_t stream) {
  check(cub::DeviceSegmentedRadixSort::SortPairsDescending(
            scratch.sorting, bytes, scratch.key, scratch.sorted_key, scratch.column, scratch.sorted_column,
            rows * plan.width, rows, segment_starts(plan.width, 0), segment_starts(plan.width, 1), 0, 32, stream),
        "sorting attention weights");
}

Scratch carve(const SortPlan& plan, void* memory) {
  Scratch scratch;
  sort(scratch, plan, plan.rows, scratch.sorting_bytes, nullptr);
  auto* next = static_cast<std::byte*>(memory);
  const auto take = [&](std::size_t bytes) {
    std::byte* taken = next;
    if (memory != nullptr) next += aligned(bytes);
    scratch.bytes += aligned(bytes);
    return taken;
  };
  const auto bytes = static_cast<std::size_t>(plan.rows) * static_cast<std::size_t>(plan.width) * sizeof(std::int32_t);
  scratch.count = reinterpret_cast<std::int64_t*>(take(static_cast<std::size_t>(plan.rows) * sizeof(std::int64_t)));
  scratch.key = reinterpret_cast<std::uint32_t*>(take(bytes));
  scratch.sorted_key = reinterpret_cast<std::uint32_t*>(take(bytes));
  scratch.column = reinterpret_cast<std::int32_t*>(take(bytes));
  scratch.sorted_column = reinterpret_cast<std::int32_t*>(take(bytes));
  scratch.sorting = take(scratch.sorting_bytes);
  return scratch;
}

__global__ void fill_counts(std::int64_t* counts, int rows, int count) {
  const int row = static_cast<int>(blockIdx.x) * threads + static_cast<int>(threadIdx.x);
  if (row < rows) counts[row] = count;
}

// Keys of all elements, which get their columns, or of the columns that are there.
__global__ void make_keys(const float* logits, std::int64_t count, int columns, int width, bool selected, std::uint32_t* key,
                          std::int32_t* column) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= count) return;
  const int at = selected ? column[i] : static_cast<int>(i % width);
  if (!selected) column[i] = at;
  key[i] = order_key(logits[i / width * columns + at]);
}

__global__ void scatter_ranks(const std::int32_t* sorted_column, int first_row, int count_rows, int needed, int width,
                              int rows, std::int32_t* rank) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= static_cast<std::int64_t>(count_rows) * needed) return;
  const std::int64_t row = i / needed, place = i % needed;
  const std::int64_t column = sorted_column[row * width + place];
  rank[column * rows + first_row + row] = static_cast<std::int32_t>(place);
}

}  // namespace

std::size_t rank_scratch_bytes(const EvaluationBlock& block, int needed) {
  needed = std::min(needed, block.columns);
  return needed > 0 ? carve(plan_sort(block, needed), nullptr).bytes : 0;
}

void launch_ranks(const float* logits, const EvaluationBlock& block, int needed, void* memory, std::int32_t* rank,
                  cudaStream_t stream) {
  if (block.rows() == 0 || block.columns == 0) return;
  check(
      cudaMemsetAsync(rank, no_rank & 0xff, static_cast<std::size_t>(block.columns) * block.rows() * sizeof(*rank), stream),
      "clearing ranks");
  needed = std::min(needed, block.columns);
  if (needed <= 0) return;
  const SortPlan plan = plan_sort(block, needed);
  const Scratch scratch = carve(plan, memory);
  for (int first = 0; first < block.rows(); first += plan.rows) {
    const int rows = std::min(plan.rows, block.rows() - first);
    const std::int64_t count = static_cast<std::int64_t>(rows) * plan.width;
    const float* z = logits + static_cast<std::int64_t>(first) * block.columns;
    if (plan.selected) {
      fill_counts<<<blocks_for(rows, threads), threads, 0, stream>>>(scratch.count, rows, needed);
      check_launch("numbers of ranks");
      launch_select_top(z, rows, block.columns, scratch.count, needed, scratch.column, stream);
    }
    make_keys<<<blocks_for(count, threads), threads, 0, stream>>>(z, count, block.columns, plan.width, plan.selected,
                                                                  scratch.key, scratch.column);
    check_launch("keys of attention weights");
    std::size_t sorting_bytes = scratch.sorting_bytes;
    sort(scratch, plan, rows, sorting_bytes, stream);
    scatter_ranks<<<blocks_for(static_cast<std::int64_t>(rows) * needed, threads), threads, 0, stream>>>(
        scratch.sorted_column, first, rows, needed, plan.width, block.rows(), rank);
    check_launch("ranks of attention weights");
  }
}

}  // namespace kvreplay::cuda
