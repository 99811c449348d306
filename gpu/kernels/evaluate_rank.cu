#include "gpu/kernels/evaluate_rank.h"

#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>

#include <algorithm>
#include <cub/device/device_segmented_radix_sort.cuh>

#include "gpu/device.h"
#include "gpu/kernels/elements.cuh"

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

std::int64_t rows_at_once(const EvaluationBlock& block) {
  return std::clamp<std::int64_t>(sorted_at_once / std::max(block.columns, 1), 1, std::max(block.rows(), 1));
}

std::size_t aligned(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

struct Scratch {
  std::uint32_t *key = nullptr, *sorted_key = nullptr;
  std::int32_t *column = nullptr, *sorted_column = nullptr;
  void* sorting = nullptr;
  std::size_t sorting_bytes = 0, bytes = 0;
};

Scratch carve(const EvaluationBlock& block, void* memory) {
  Scratch scratch;
  const std::int64_t rows = rows_at_once(block), count = rows * block.columns;
  check(cub::DeviceSegmentedRadixSort::SortPairsDescending(nullptr, scratch.sorting_bytes, scratch.key, scratch.sorted_key,
                                                           scratch.column, scratch.sorted_column, static_cast<int>(count),
                                                           static_cast<int>(rows), segment_starts(block.columns, 0),
                                                           segment_starts(block.columns, 1), 0, 32),
        "planning a sort");
  auto* next = static_cast<std::byte*>(memory);
  const auto take = [&](std::size_t bytes) {
    std::byte* taken = next;
    if (memory != nullptr) next += aligned(bytes);
    scratch.bytes += aligned(bytes);
    return taken;
  };
  const auto bytes = static_cast<std::size_t>(count) * sizeof(std::int32_t);
  scratch.key = reinterpret_cast<std::uint32_t*>(take(bytes));
  scratch.sorted_key = reinterpret_cast<std::uint32_t*>(take(bytes));
  scratch.column = reinterpret_cast<std::int32_t*>(take(bytes));
  scratch.sorted_column = reinterpret_cast<std::int32_t*>(take(bytes));
  scratch.sorting = take(scratch.sorting_bytes);
  return scratch;
}

__global__ void make_keys(const float* logits, std::int64_t count, int columns, std::uint32_t* key, std::int32_t* column) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= count) return;
  key[i] = order_key(logits[i]);
  column[i] = static_cast<std::int32_t>(i % columns);
}

__global__ void scatter_ranks(const std::int32_t* sorted_column, int first_row, int count_rows, int needed, int columns,
                              int rows, std::int32_t* rank) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= static_cast<std::int64_t>(count_rows) * needed) return;
  const std::int64_t row = i / needed, place = i % needed;
  const std::int64_t column = sorted_column[row * columns + place];
  rank[column * rows + first_row + row] = static_cast<std::int32_t>(place);
}

}  // namespace

std::size_t rank_scratch_bytes(const EvaluationBlock& block) { return carve(block, nullptr).bytes; }

void launch_ranks(const float* logits, const EvaluationBlock& block, int needed, void* memory, std::int32_t* rank,
                  cudaStream_t stream) {
  if (block.rows() == 0 || block.columns == 0) return;
  check(
      cudaMemsetAsync(rank, no_rank & 0xff, static_cast<std::size_t>(block.columns) * block.rows() * sizeof(*rank), stream),
      "clearing ranks");
  needed = std::min(needed, block.columns);
  if (needed == 0) return;
  const Scratch scratch = carve(block, memory);
  const int at_once = static_cast<int>(rows_at_once(block));
  for (int first = 0; first < block.rows(); first += at_once) {
    const int rows = std::min(at_once, block.rows() - first);
    const std::int64_t count = static_cast<std::int64_t>(rows) * block.columns;
    make_keys<<<blocks_for(count, threads), threads, 0, stream>>>(logits + static_cast<std::int64_t>(first) * block.columns,
                                                                  count, block.columns, scratch.key, scratch.column);
    check_launch("keys of attention weights");
    std::size_t sorting_bytes = scratch.sorting_bytes;
    // Stable: among equal keys the lowest position stays first.
    check(cub::DeviceSegmentedRadixSort::SortPairsDescending(scratch.sorting, sorting_bytes, scratch.key, scratch.sorted_key,
                                                             scratch.column, scratch.sorted_column, static_cast<int>(count),
                                                             rows, segment_starts(block.columns, 0),
                                                             segment_starts(block.columns, 1), 0, 32, stream),
          "sorting attention weights");
    scatter_ranks<<<blocks_for(static_cast<std::int64_t>(rows) * needed, threads), threads, 0, stream>>>(
        scratch.sorted_column, first, rows, needed, block.columns, block.rows(), rank);
    check_launch("ranks of attention weights");
  }
}

}  // namespace kvreplay::cuda
