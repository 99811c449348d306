#include "gpu/kernels/evaluate_full.h"

#include <math_constants.h>

#include <algorithm>

#include "gpu/device.h"
#include "gpu/kernels/evaluate_list.cuh"
#include "gpu/kernels/evaluate_tile.cuh"
#include "gpu/kernels/evaluate_top.cuh"

namespace kvreplay::cuda {
namespace {

constexpr int threads = 256;

// What a piece of the columns adds to a row's summary, without the largest logit.
constexpr int piece_columns = 1024, weight_rows = 32, weight_columns = 128, weight_warps = threads / warp_size;
struct PieceSums {
  double weighted, mass[num_regions];  // Σ e · (z - top); Σ e of each region
};

// 32 rows × 1,024 columns, 128 columns at a time: read by rows, turned in shared memory, written by tokens. While turned a
// lane has a row, so sums need no exchange until the end.
__global__ void __launch_bounds__(threads)
    weights(const float* logits, const unsigned long long* tops, EvaluationBlock block, float* out, PieceSums* partial) {
  __shared__ float turned[weight_rows][weight_columns + 1];
  __shared__ PieceSums parts[weight_warps][weight_rows];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % warp_size, warp = thread / warp_size;
  const int first_row = static_cast<int>(blockIdx.x) * weight_rows, rows = block.rows(), own = first_row + lane;
  const int piece = static_cast<int>(blockIdx.y) * piece_columns, end = min(piece + piece_columns, block.columns);
  const unsigned long long top = own < rows ? tops[own] : 0;  // 0: not recorded
  const float largest = logit_of_top(top);
  const int largest_column = column_of_top(top);

  PieceSums sums{};
  for (int first = piece; first < end; first += weight_columns) {
    constexpr int each = weight_columns / warp_size;
#pragma unroll
    for (int i = 0; i < weight_rows / weight_warps; ++i)
#pragma unroll
      for (int j = 0; j < each; ++j) {
        const int r = warp + i * weight_warps, column = first + lane + j * warp_size;
        turned[r][lane + j * warp_size] = first_row + r < rows && column < end
                                              ? logits[static_cast<std::int64_t>(first_row + r) * block.columns + column]
                                              : -CUDART_INF_F;
      }
    __syncthreads();
#pragma unroll 4
    for (int c = warp; c < weight_columns; c += weight_warps) {
      const int column = first + c;
      const float x = turned[lane][c] - largest, e = top != 0 ? decayed(x) : 0.0F;
      if (own < rows && column < end) out[static_cast<std::int64_t>(column) * rows + own] = e;
      if (e == 0 || column == largest_column) continue;
      sums.weighted += static_cast<double>(e) * static_cast<double>(x);
      const int region = region_of(block, block.origin + column);  // the same for all lanes
#pragma unroll
      for (int r = 0; r < num_regions; ++r)
        if (r == region) sums.mass[r] += e;
    }
    __syncthreads();
  }
  parts[warp][lane] = sums;
  __syncthreads();
  if (warp != 0 || own >= rows) return;
  for (int w = 1; w < weight_warps; ++w) {
    sums.weighted += parts[w][lane].weighted;
    for (int r = 0; r < num_regions; ++r) sums.mass[r] += parts[w][lane].mass[r];
  }
  partial[static_cast<std::int64_t>(blockIdx.y) * rows + own] = sums;
}

// A warp for each row.
__global__ void __launch_bounds__(threads)
    finish_summaries(const PieceSums* partial, int pieces, const unsigned long long* tops, EvaluationBlock block,
                     RowSummary* summaries) {
  const int row = static_cast<int>(blockIdx.x) * (threads / warp_size) + static_cast<int>(threadIdx.x) / warp_size;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  if (row >= block.rows()) return;
  PieceSums sums{};
  for (int p = lane; p < pieces; p += warp_size) {
    const PieceSums part = partial[static_cast<std::int64_t>(p) * block.rows() + row];
    sums.weighted += part.weighted;
    for (int r = 0; r < num_regions; ++r) sums.mass[r] += part.mass[r];
  }
  sums.weighted = warp_sum(sums.weighted);
  for (int r = 0; r < num_regions; ++r) sums.mass[r] = warp_sum(sums.mass[r]);
  if (lane != 0) return;
  RowSummary summary{};
  const unsigned long long top = tops[row];
  summary.largest = -1;
  if (top != 0) {
    summary.top = logit_of_top(top);
    summary.largest = column_of_top(top);
    for (int r = 0; r < num_regions; ++r) summary.others += sums.mass[r];
    summary.total = 1 + summary.others;
    summary.entropy = log(summary.total) - sums.weighted / summary.total;
    for (int r = 0; r < num_regions; ++r) {
      const double one = region_of(block, block.origin + summary.largest) == r ? 1 : 0;
      summary.mass[r] = (sums.mass[r] + one) / summary.total;
    }
  }
  summaries[row] = summary;
}

struct Splits {
  int count = 1;
  int length = 0;  // columns of one
};

// Enough pieces to fill the device, few enough that what they leave stays small.
Splits full_splits(const EvaluationBlock& block) {
  const int tiles = (block.rows() + tile_rows - 1) / tile_rows;
  const int wanted = std::clamp(1024 / std::max(tiles, 1), 1, 64);
  Splits splits;
  splits.length = std::max(512, (block.columns + wanted - 1) / wanted);
  splits.count = std::max(1, (block.columns + splits.length - 1) / splits.length);
  return splits;
}

// partial [splits, rows, d]: sums of one piece of the columns, without the largest weight.
template <int Columns, class Element>
__global__ void __launch_bounds__(tile_threads, 2)
    full_sums(const float* exponential, const Element* value, EvaluationBlock block, const RowSummary* summaries, int length,
              double* partial) {
  using Sums = TensorCoreSums<Columns>;
  __shared__ WeightedTile<Columns> tile;
  __shared__ int largest[tile_rows];
  const int first_row = static_cast<int>(blockIdx.x) * tile_rows, rows = block.rows();
  const int first_dim = static_cast<int>(blockIdx.z) * Columns;
  const int begin = static_cast<int>(blockIdx.y) * length, end = min(begin + length, block.columns);
  for (int r = static_cast<int>(threadIdx.x); r < tile_rows; r += tile_threads)
    largest[r] = first_row + r < rows ? summaries[first_row + r].largest : -1;
  __syncthreads();
  Sums sums{};
  add_tokens<Columns>(
      sums, tile, begin, end, [](int k) { return k; },
      [&](int, int column, int r) {
        const int row = first_row + r;
        return row < rows && column != largest[r] ? exponential[static_cast<std::int64_t>(column) * rows + row] : 0.0F;
      },
      value, block.dim, first_dim);
#pragma unroll
  for (int i = 0; i < Sums::rows; ++i)
#pragma unroll
    for (int j = 0; j < Sums::columns; ++j) {
      const int row = first_row + Sums::row(i), c = first_dim + Sums::column(j);
      if (row < rows && c < block.dim)
        partial[(static_cast<std::int64_t>(blockIdx.y) * rows + row) * block.dim + c] = sums.at[i][j];
    }
}

template <class Element>
__global__ void finish_full(const double* partial, int splits, const Element* value, EvaluationBlock block, double* sum,
                            float* output, float* single_of_largest, RowSummary* summaries) {
  __shared__ double scratch[warp_size + 1];
  const int row = static_cast<int>(blockIdx.x), dim = block.dim;
  const RowSummary summary = summaries[row];
  double apart = 0, norm = 0;
  for (int c = static_cast<int>(threadIdx.x); c < dim; c += static_cast<int>(blockDim.x)) {
    double total = 0, o = 0;
    if (summary.largest >= 0) {
      for (int s = 0; s < splits; ++s) total += partial[(static_cast<std::int64_t>(s) * block.rows() + row) * dim + c];
      const double v = to_float(value[static_cast<std::int64_t>(summary.largest) * dim + c]);
      const double r = total / fmax(summary.others, 1e-300) - v;
      apart += r * r;
      total += v;
      o = total / summary.total;
      norm += o * o;
    }
    sum[static_cast<std::int64_t>(row) * dim + c] = total;
    output[static_cast<std::int64_t>(row) * dim + c] = static_cast<float>(o);
  }
  apart = block_sum(apart, scratch);
  norm = block_sum(norm, scratch);
  if (threadIdx.x != 0) return;
  summaries[row].output_norm = sqrt(norm);
  single_of_largest[row] = summary.largest >= 0 ? static_cast<float>(sqrt(apart) / summary.total) : 0.0F;
}

// 64 tokens × 64 rows for each block, 4 × 4 for each thread: two float32 operations a coordinate, bound by their rate.
template <class Element>
__global__ void single_removals(const float* exponential, const Element* value, EvaluationBlock block, const float* output,
                                const float* single_of_largest, const RowSummary* summaries, float* single,
                                double* partial) {
  constexpr int side = 64, depth = 16, per_thread = 4;
  __shared__ float v[depth][side + 1], o[depth][side + 1];
  __shared__ double part[16][side];
  const int first_column = static_cast<int>(blockIdx.x) * side, first_row = static_cast<int>(blockIdx.y) * side;
  const int x = static_cast<int>(threadIdx.x) % 16, y = static_cast<int>(threadIdx.x) / 16;
  const int dim = block.dim, rows = block.rows();
  float squared[per_thread][per_thread] = {};  // [token][row]
  for (int begin = 0; begin < dim; begin += depth) {
    for (int i = static_cast<int>(threadIdx.x); i < side * depth; i += threads) {
      const int r = i / depth, c = i % depth;
      const bool inside = begin + c < dim;
      v[c][r] = inside && first_column + r < block.columns
                    ? to_float(value[static_cast<std::int64_t>(first_column + r) * dim + begin + c])
                    : 0.0F;
      o[c][r] = inside && first_row + r < rows ? output[static_cast<std::int64_t>(first_row + r) * dim + begin + c] : 0.0F;
    }
    __syncthreads();
    for (int c = 0; c < depth; ++c) {
      float left[per_thread], right[per_thread];
      for (int i = 0; i < per_thread; ++i) left[i] = v[c][y + 16 * i];
      for (int j = 0; j < per_thread; ++j) right[j] = o[c][x + 16 * j];
      for (int i = 0; i < per_thread; ++i)
        for (int j = 0; j < per_thread; ++j) {
          const float difference = left[i] - right[j];
          squared[i][j] = fmaf(difference, difference, squared[i][j]);
        }
    }
    __syncthreads();
  }
  for (int j = 0; j < per_thread; ++j) {
    const int row = first_row + x + 16 * j;
    double total = 0;
    if (row < rows) {
      const double all = summaries[row].total;
      const int largest = summaries[row].largest;
      for (int i = 0; i < per_thread; ++i) {
        const int column = first_column + y + 16 * i;
        if (column >= block.columns) continue;
        const std::int64_t at = static_cast<std::int64_t>(column) * rows + row;
        const double e = exponential[at];
        float error = 0;
        if (column == largest)
          error = single_of_largest[row];
        else if (e > 0)
          error = static_cast<float>(e / (all - e) * sqrt(static_cast<double>(squared[i][j])));
        single[at] = error;
        total += error;
      }
    }
    part[y][x + 16 * j] = total;
  }
  __syncthreads();
  for (int r = static_cast<int>(threadIdx.x); r < side; r += threads) {
    if (first_row + r >= rows) continue;
    double total = 0;
    for (int i = 0; i < 16; ++i) total += part[i][r];
    partial[static_cast<std::int64_t>(blockIdx.x) * rows + first_row + r] = total;
  }
}

__global__ void finish_singles(const double* partial, int pieces, EvaluationBlock block, RowSummary* summaries) {
  __shared__ double scratch[warp_size + 1];
  const int row = static_cast<int>(blockIdx.x);
  double total = 0;
  for (int p = static_cast<int>(threadIdx.x); p < pieces; p += threads)
    total += partial[static_cast<std::int64_t>(p) * block.rows() + row];
  total = block_sum(total, scratch);
  if (threadIdx.x == 0) summaries[row].single_total = total;
}

// A warp for each token and query head: its steps lie side by side.
__global__ void add_attention(const float* exponential, const RowSummary* summaries, EvaluationBlock block, int first,
                              int candidates, double* total) {
  const int candidate = static_cast<int>(blockIdx.x) * (threads / warp_size) + static_cast<int>(threadIdx.x) / warp_size;
  const int head = static_cast<int>(blockIdx.y), lane = static_cast<int>(threadIdx.x) % warp_size;
  const int column = first + candidate - block.origin;
  if (candidate >= candidates || column < 0 || column >= block.columns) return;
  double sum = 0;
  for (int s = lane; s < block.steps; s += warp_size) {
    const int row = head * block.steps + s;
    const float e = exponential[static_cast<std::int64_t>(column) * block.rows() + row];
    if (e > 0) sum += e / summaries[row].total;
  }
  sum = warp_sum(sum);
  if (lane == 0) total[static_cast<std::int64_t>(head) * candidates + candidate] += sum;
}

__global__ void narrow(const double* total, std::int64_t count, float* out) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i < count) out[i] = static_cast<float>(total[i]);
}

}  // namespace

std::int64_t weight_partial_count(const EvaluationBlock& block) {
  const std::int64_t pieces = (block.columns + piece_columns - 1) / piece_columns;
  return pieces * block.rows() * static_cast<std::int64_t>(sizeof(PieceSums) / sizeof(double));
}

void launch_weights(const float* logits, const unsigned long long* top, const EvaluationBlock& block, float* exponential,
                    double* partial, RowSummary* summary, cudaStream_t stream) {
  if (block.rows() == 0 || block.columns == 0) return;
  const dim3 grid(blocks_for(block.rows(), weight_rows), blocks_for(block.columns, piece_columns));
  auto* const sums = reinterpret_cast<PieceSums*>(partial);
  weights<<<grid, threads, 0, stream>>>(logits, top, block, exponential, sums);
  check_launch("attention weights of decode steps");
  finish_summaries<<<blocks_for(block.rows(), threads / warp_size), threads, 0, stream>>>(sums, static_cast<int>(grid.y),
                                                                                          top, block, summary);
  check_launch("softmax of decode steps");
}

std::int64_t full_partial_count(const EvaluationBlock& block) {
  return static_cast<std::int64_t>(full_splits(block).count) * block.rows() * block.dim;
}

void launch_full_outputs(const float* exponential, const void* value, ElementType type, const EvaluationBlock& block,
                         double* partial, double* sum, float* output, float* single_of_largest, RowSummary* summary,
                         cudaStream_t stream) {
  if (block.rows() == 0 || block.columns == 0) return;
  const Splits splits = full_splits(block);
  const auto tiles = blocks_for(block.rows(), tile_rows);
  with_elements(type, value, [&](const auto* values) {
    values += static_cast<std::int64_t>(block.origin) * block.dim;
    const auto launch = [&]<int Columns>() {
      const dim3 grid(tiles, static_cast<unsigned>(splits.count), blocks_for(block.dim, Columns));
      full_sums<Columns><<<grid, tile_threads, 0, stream>>>(exponential, values, block, summary, splits.length, partial);
    };
    if (block.dim <= 64)
      launch.template operator()<64>();
    else
      launch.template operator()<128>();
    finish_full<<<static_cast<unsigned>(block.rows()), 128, 0, stream>>>(partial, splits.count, values, block, sum, output,
                                                                         single_of_largest, summary);
  });
  check_launch("outputs of decode steps");
}

std::int64_t single_partial_count(const EvaluationBlock& block) {
  return static_cast<std::int64_t>((block.columns + 63) / 64) * block.rows();
}

void launch_single_removals(const float* exponential, const void* value, ElementType type, const EvaluationBlock& block,
                            const float* output, const float* single_of_largest, float* single, double* partial,
                            RowSummary* summary, cudaStream_t stream) {
  if (block.rows() == 0 || block.columns == 0) return;
  const dim3 grid(blocks_for(block.columns, 64), blocks_for(block.rows(), 64));
  with_elements(type, value, [&](const auto* values) {
    single_removals<<<grid, threads, 0, stream>>>(exponential, values + static_cast<std::int64_t>(block.origin) * block.dim,
                                                  block, output, single_of_largest, summary, single, partial);
  });
  finish_singles<<<static_cast<unsigned>(block.rows()), threads, 0, stream>>>(partial, static_cast<int>(grid.x), block,
                                                                              summary);
  check_launch("errors of single removals at decode steps");
}

void launch_add_attention(const float* exponential, const RowSummary* summary, const EvaluationBlock& block, int first,
                          int candidates, double* total, cudaStream_t stream) {
  if (block.rows() == 0 || candidates == 0) return;
  const dim3 grid(blocks_for(candidates, threads / warp_size), static_cast<unsigned>(block.group));
  add_attention<<<grid, threads, 0, stream>>>(exponential, summary, block, first, candidates, total);
  check_launch("sums of attention over decode steps");
}

void launch_narrow(const double* total, std::int64_t count, float* out, cudaStream_t stream) {
  if (count == 0) return;
  narrow<<<blocks_for(count, threads), threads, 0, stream>>>(total, count, out);
  check_launch("rounding sums to float32");
}

}  // namespace kvreplay::cuda
