#include "gpu/kernels/evaluate_kept.h"

#include "gpu/device.h"
#include "gpu/kernels/evaluate_list.cuh"
#include "gpu/kernels/evaluate_repair.h"
#include "gpu/kernels/evaluate_tile.cuh"

namespace kvreplay::cuda {
namespace {

constexpr int threads = 256, warps = threads / warp_size;

// Rows that a thread block works on: at most `height` consecutive ones. Rows of different query heads share a tile unless
// some run keeps other tokens for each.
struct RowTile {
  int first, count;
};

constexpr int tiles_of(const KeptArguments& a, int height) {
  const int rows = a.by_query_head ? a.block.steps : a.block.rows();
  return (rows + height - 1) / height * (a.by_query_head ? a.block.group : 1);
}

__device__ RowTile row_tile(const KeptArguments& a, int tile, int height) {
  if (!a.by_query_head) return {tile * height, min(height, a.block.rows() - tile * height)};
  const int each = (a.block.steps + height - 1) / height, within = tile % each * height;
  return {tile / each * a.block.steps + within, min(height, a.block.steps - within)};
}

// Sum of one value over the warps of a block, for each lane; valid in warp 0.
template <class T>
__device__ T sum_over_warps(T value, T (*scratch)[warp_size]) {
  const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
  __syncthreads();
  scratch[warp][lane] = value;
  __syncthreads();
  T total{};
  for (int w = 0; w < warps; ++w) total += scratch[w][lane];
  return total;
}

// How many tokens row `row` keeps. All threads must call it; the same in every warp.
__device__ int count_kept(const KeptArguments& a, const KeptTokens& tokens, int row, bool valid, int (*scratch)[warp_size]) {
  const EvaluationBlock& block = a.block;
  int count = 0;
  if (tokens.timed == 0) {
    if (!valid) return 0;
    const int own = block.position(row), low = block.first_visible(own);
    count = tokens.count - lower_bound(tokens.positions, tokens.count, low);
    return count + own + 1 - max(block.prompt, low);
  }
  for (int k = tokens.begin + static_cast<int>(threadIdx.x) / warp_size; k < tokens.end; k += warps)
    count += valid && is_kept(block, row, tokens.position(k), tokens.until(k)) ? 1 : 0;
  return sum_over_warps(count, scratch);
}

__device__ void note_repair(const KeptArguments& a, std::int64_t cell, unsigned reasons) {
  const unsigned long long place = atomicAdd(a.repairs, 1ULL);
  a.repairs[1 + place] = static_cast<unsigned long long>(cell) << 3 | reasons;
}

// What needs no vectors. A lane holds a row, each warp every eighth token of the list: loads of 32 rows of one token are one
// line of memory. Bound by reading the three matrices, from L2 where runs share tokens.
__global__ void __launch_bounds__(threads) kept_sums(KeptArguments a, int tiles) {
  __shared__ KeptTokens shared_tokens;
  __shared__ int counts[warps][warp_size];
  __shared__ double sums[warps][warp_size];
  const EvaluationBlock& block = a.block;
  const int run = static_cast<int>(blockIdx.x) / tiles, kv_head = static_cast<int>(blockIdx.y);
  const RowTile tile = row_tile(a, static_cast<int>(blockIdx.x) % tiles, warp_size);
  const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
  if (threadIdx.x == 0) shared_tokens = kept_tokens(a, run, kv_head, tile.first, tile.first + tile.count - 1);
  __syncthreads();
  const KeptTokens tokens = shared_tokens;
  const bool valid = lane < tile.count;
  const int row = tile.first + (valid ? lane : 0), rows = block.rows();
  const std::int64_t first_weight = static_cast<std::int64_t>(kv_head) * block.columns * rows + row;

  const int kept = count_kept(a, tokens, row, valid, counts);
  double mass[num_regions] = {}, single = 0;
  int shared = 0;
#pragma unroll 4
  for (int k = tokens.begin + warp; k < tokens.end; k += warps) {
    const int position = tokens.position(k);
    if (!valid || !is_kept(block, row, position, tokens.until(k))) continue;
    const std::int64_t at = first_weight + static_cast<std::int64_t>(position - block.origin) * rows;
    const double e = a.exponential[at];
    const int region = region_of(block, position);
#pragma unroll
    for (int r = 0; r < num_regions; ++r)
      if (r == region) mass[r] += e;
    if (a.single != nullptr) single += a.single[at];
    if (a.rank != nullptr) shared += a.rank[at] < kept ? 1 : 0;
  }
  for (double& part : mass) part = sum_over_warps(part, sums);
  if (a.single != nullptr) single = sum_over_warps(single, sums);
  if (a.rank != nullptr) shared = sum_over_warps(shared, counts);
  if (warp != 0 || !valid) return;

  const std::int64_t cell_index = (static_cast<std::int64_t>(run) * block.kv_heads + kv_head) * rows + row;
  const RowSummary& summary = a.summary[static_cast<std::int64_t>(kv_head) * rows + row];
  KeptCell cell{};
  double kept_sum = 0;
  if (summary.largest >= 0) {
    cell.kept = kept;
    cell.shared = shared;
    const int own = block.position(row);
    if (kept == own + 1 - block.first_visible(own)) {
      kept_sum = summary.total;
      for (int r = 0; r < num_regions; ++r) cell.mass_after[r] = static_cast<float>(summary.mass[r]);
    } else {
      for (const double part : mass) kept_sum += part;
      const double evicted_sum = fmax(summary.total - kept_sum, 0.0), evicted_single = summary.single_total - single;
      unsigned reasons = kept_sum < tiny_share * summary.total ? afresh : 0;
      if (evicted_sum < small_mass * summary.total) reasons |= evicted_by_itself;
      if (a.single != nullptr && evicted_single < small_mass * summary.single_total) reasons |= singles_by_themselves;
      if (reasons != 0) note_repair(a, cell_index, reasons);
      cell.evicted_mass = static_cast<float>(evicted_sum / summary.total);
      cell.divergence = static_cast<float>((summary.top + log(summary.total)) - (summary.top + log(kept_sum)));
      cell.single_removal_sum = static_cast<float>(evicted_single);
      for (int r = 0; r < num_regions; ++r) cell.mass_after[r] = static_cast<float>(mass[r] / kept_sum);
    }
  }
  a.cells[cell_index] = cell;
  a.kept_sum[cell_index] = kept_sum;
}

// Outputs of 64 rows of one run: Σ over the list in float64, then what their norms and differences need while the sums are
// still in registers. Bound by the float64 rate.
template <class Sums, int Columns, class Element>
__global__ void __launch_bounds__(tile_threads, 2) kept_outputs(KeptArguments a, int tiles, const Element* value) {
  __shared__ WeightedTile<Columns> shared_tile;
  __shared__ KeptTokens shared_tokens;
  __shared__ double kept_sums[tile_rows], totals[tile_rows];
  __shared__ double norms[2][Sums::slots][tile_rows];
  __shared__ int any;
  const EvaluationBlock& block = a.block;
  const int run = static_cast<int>(blockIdx.x) / tiles, kv_head = static_cast<int>(blockIdx.y), rows = block.rows();
  const RowTile tile = row_tile(a, static_cast<int>(blockIdx.x) % tiles, tile_rows);
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t first_row = static_cast<std::int64_t>(kv_head) * rows + tile.first;
  const std::int64_t first_cell = static_cast<std::int64_t>(run) * block.kv_heads * rows + first_row;
  if (thread == 0) {
    shared_tokens = kept_tokens(a, run, kv_head, tile.first, tile.first + tile.count - 1);
    any = 0;
  }
  __syncthreads();
  if (thread < tile_rows) {
    // A total of 0 marks rows whose outputs stay as they are: nothing evicted, or not recorded.
    double total = 0;
    if (thread < tile.count && a.summary[first_row + thread].largest >= 0) {
      const int own = block.position(tile.first + thread);
      if (a.cells[first_cell + thread].kept < own + 1 - block.first_visible(own))
        total = a.summary[first_row + thread].total;
    }
    totals[thread] = total;
    kept_sums[thread] = total > 0 ? a.kept_sum[first_cell + thread] : 0;
    if (total > 0) any = 1;
  }
  __syncthreads();
  const KeptTokens tokens = shared_tokens;
  const float* exponential = a.exponential + static_cast<std::int64_t>(kv_head) * block.columns * rows + tile.first;
  value += kv_head * a.head_stride + static_cast<std::int64_t>(block.origin) * block.dim;
  const std::int64_t width = static_cast<std::int64_t>(block.num_query_heads) * block.dim;

  for (int first_dim = 0; first_dim < block.dim; first_dim += Columns) {
    Sums sums{};
    if (any != 0)
      add_tokens<Columns>(
          sums, shared_tile, tokens.begin, tokens.end, [&](int k) { return tokens.position(k) - block.origin; },
          [&](int k, int column, int r) {
            // What a row does not see has weight 0 already.
            if (r >= tile.count) return 0.0F;
            if (tokens.timed != 0 && !is_kept(block, tile.first + r, column + block.origin, tokens.until(k))) return 0.0F;
            return exponential[static_cast<std::int64_t>(column) * rows + r];
          },
          value, block.dim, first_dim);
#pragma unroll
    for (int i = 0; i < Sums::rows; ++i) {
      const int r = Sums::row(i);
      double moved = 0, apart = 0;
      const int row = min(tile.first + r, tile.first + tile.count - 1);
      const double total = totals[r], kept_sum = kept_sums[r];
      const double of_kept = 1 / kept_sum, of_evicted = 1 / fmax(total - kept_sum, 1e-300), of_all = 1 / total;
      const double* full = a.sum + (first_row + row - tile.first) * block.dim;
      float* difference = a.difference + (static_cast<std::int64_t>(run) * block.steps + row % block.steps) * width +
                          static_cast<std::int64_t>(block.query_head(kv_head, row)) * block.dim;
#pragma unroll
      for (int j = 0; j < Sums::columns; ++j) {
        const int c = first_dim + Sums::column(j);
        if (c >= block.dim || r >= tile.count) continue;
        double delta = 0;
        if (total > 0) {
          const double sum = sums.at[i][j], output = sum * of_kept;
          delta = output - full[c] * of_all;
          const double gap = output - (full[c] - sum) * of_evicted;
          moved += delta * delta;
          apart += gap * gap;
        }
        difference[c] = static_cast<float>(delta);
      }
      // Kept in shared memory from one part of d to the next: registers are scarce while sums are formed.
      moved = sum_over_sharers<Sums>(moved);
      apart = sum_over_sharers<Sums>(apart);
      if (thread % Sums::sharers == 0) {
        norms[0][Sums::slot()][r] = first_dim == 0 ? moved : norms[0][Sums::slot()][r] + moved;
        norms[1][Sums::slot()][r] = first_dim == 0 ? apart : norms[1][Sums::slot()][r] + apart;
      }
    }
  }
  __syncthreads();
  if (thread >= tile.count || totals[thread] == 0) return;
  double squared[2] = {};
  for (int n = 0; n < 2; ++n)
    for (int slot = 0; slot < Sums::slots; ++slot) squared[n] += norms[n][slot][thread];
  KeptCell& cell = a.cells[first_cell + thread];
  cell.difference_norm = static_cast<float>(sqrt(squared[0]));
  cell.displacement = static_cast<float>(sqrt(squared[1]));
}

template <int Columns>
void launch_outputs(const KeptArguments& a, cudaStream_t stream) {
  const int tiles = tiles_of(a, tile_rows);
  const dim3 grid(static_cast<unsigned>(a.runs * tiles), static_cast<unsigned>(a.block.kv_heads));
  with_elements(a.value_type, a.value, [&](const auto* value) {
    kept_outputs<TensorCoreSums<Columns>, Columns><<<grid, tile_threads, 0, stream>>>(a, tiles, value);
  });
  check_launch("outputs of kept sets");
}

}  // namespace

void launch_kept(const KeptArguments& a, int multiprocessors, cudaStream_t stream) {
  if (a.cell_count() == 0) return;
  check(cudaMemsetAsync(a.repairs, 0, sizeof(*a.repairs), stream), "clearing the list of repairs");
  const int tiles = tiles_of(a, warp_size);
  const dim3 grid(static_cast<unsigned>(a.runs * tiles), static_cast<unsigned>(a.block.kv_heads));
  kept_sums<<<grid, threads, 0, stream>>>(a, tiles);
  check_launch("sums over kept sets");
  if (a.sum != nullptr) {
    if (a.block.dim <= 64)
      launch_outputs<64>(a, stream);
    else
      launch_outputs<128>(a, stream);
  }
  launch_repairs(a, multiprocessors, stream);
}

}  // namespace kvreplay::cuda
