#include "gpu/kernels/evaluate_repair.h"

#include <math_constants.h>

#include <algorithm>

#include "gpu/device.h"
#include "gpu/kernels/evaluate_list.cuh"

namespace kvreplay::cuda {
namespace {

constexpr int threads = 256, warps = threads / warp_size;
constexpr int segment = 1 << 17;  // tokens whose kept bits are in shared memory at once: 16 KiB

// Shared memory of a block.
struct Workspace {
  KeptTokens tokens;
  double scratch[warp_size + 1];
  float maxima[warps];
  double mass[warps][num_regions];
  unsigned kept_bits[segment / 32];
};

struct Cell {
  std::int64_t index;
  unsigned reasons;
  int run, kv_head, row;
};

// Sums of one cell; vectors [warps, d] in shared memory: each warp adds to its own.
struct Kept {
  double top = 0, sum = 0;
};
struct Evicted {
  double sum = 0, single = 0;
};

template <class Key>
__device__ float logit_of(const KeptArguments& a, const Key* key, const float* query, int position) {
  const Key* k = key + static_cast<std::int64_t>(position) * a.block.dim;
  float sum = 0;
  for (int c = static_cast<int>(threadIdx.x) % warp_size; c < a.block.dim; c += warp_size)
    sum = fmaf(query[c], to_float(k[c]), sum);
  const float z = a.scale * warp_sum(sum);
  return a.cap > 0 ? a.cap * tanhf(z / a.cap) : z;
}

template <class Value>
__device__ void add_value(double* vector, const Value* value, int dim, double weight) {
  for (int c = static_cast<int>(threadIdx.x) % warp_size; c < dim; c += warp_size) vector[c] += weight * to_float(value[c]);
}

// Weights of the kept tokens relative to the largest of them, from logits: relative to the largest of all they vanish.
template <class Key, class Value>
__device__ Kept weigh_afresh(const KeptArguments& a, const Cell& cell, Workspace& work, const Key* key, const Value* value,
                             double* vectors) {
  const EvaluationBlock& block = a.block;
  const KeptTokens& tokens = work.tokens;
  const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
  const float* query = a.query + (static_cast<std::int64_t>(cell.kv_head) * block.rows() + cell.row) * block.dim;
  float top = -CUDART_INF_F;
  for (int k = tokens.begin + warp; k < tokens.end; k += warps)
    if (is_kept(block, cell.row, tokens.position(k), tokens.until(k)))
      top = fmaxf(top, logit_of(a, key, query, tokens.position(k)));
  if (lane == 0) work.maxima[warp] = top;
  __syncthreads();
  for (const float other : work.maxima) top = fmaxf(top, other);

  Kept kept;
  kept.top = top;
  for (int k = tokens.begin + warp; k < tokens.end; k += warps) {
    const int position = tokens.position(k);
    if (!is_kept(block, cell.row, position, tokens.until(k))) continue;
    const float z = logit_of(a, key, query, position);
    const double weight = static_cast<float>(exp(static_cast<double>(z) - top));
    if (lane == 0) {
      kept.sum += weight;
      work.mass[warp][region_of(block, position)] += weight;
    }
    if (a.sum != nullptr)
      add_value(vectors + warp * block.dim, value + static_cast<std::int64_t>(position) * block.dim, block.dim, weight);
  }
  kept.sum = block_sum(kept.sum, work.scratch);
  return kept;
}

// Sums over the evicted tokens themselves. with_vectors: also Σ exp(z - top) v.
template <class Value>
__device__ Evicted sum_evicted(const KeptArguments& a, const Cell& cell, Workspace& work, const Value* value,
                               bool with_vectors, double* vectors) {
  const EvaluationBlock& block = a.block;
  const KeptTokens& tokens = work.tokens;
  const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
  const int own = block.position(cell.row), rows = block.rows();
  const std::int64_t weights = static_cast<std::int64_t>(cell.kv_head) * block.columns * rows + cell.row;
  Evicted evicted;
  for (int first = block.first_visible(own); first <= own; first += segment) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < segment / 32; i += threads) work.kept_bits[i] = 0;
    __syncthreads();
    for (int k = tokens.begin + static_cast<int>(threadIdx.x); k < tokens.end; k += threads) {
      const int position = tokens.position(k), bit = position - first;
      if (bit >= 0 && bit < segment && is_kept(block, cell.row, position, tokens.until(k)))
        atomicOr(&work.kept_bits[bit / 32], 1U << (bit % 32));
    }
    __syncthreads();
    const int end = min(own + 1 - first, segment);
    for (int base = warp * warp_size; base < end; base += threads) {
      const int bit = base + lane;
      float e = 0;
      if (bit < end && (work.kept_bits[base / 32] >> lane & 1U) == 0) {
        const std::int64_t at = weights + static_cast<std::int64_t>(first + bit - block.origin) * rows;
        e = a.exponential[at];
        evicted.sum += e;
        if (a.single != nullptr) evicted.single += a.single[at];
      }
      if (!with_vectors) continue;
      for (unsigned left = __ballot_sync(all_lanes, e > 0); left != 0; left &= left - 1) {
        const int source = __ffs(static_cast<int>(left)) - 1;
        const double weight = __shfl_sync(all_lanes, e, source);
        add_value(vectors + warp * block.dim, value + static_cast<std::int64_t>(first + base + source) * block.dim,
                  block.dim, weight);
      }
    }
  }
  evicted.sum = block_sum(evicted.sum, work.scratch);
  evicted.single = block_sum(evicted.single, work.scratch);
  return evicted;
}

// Norms and difference from the vector that was summed anew: the kept one (afresh) or the evicted one.
__device__ void finish_vectors(const KeptArguments& a, const Cell& cell, Workspace& work, const double* vectors,
                               bool is_kept_one, double kept_sum, double evicted_sum, double total) {
  const EvaluationBlock& block = a.block;
  const std::int64_t row = static_cast<std::int64_t>(cell.kv_head) * block.rows() + cell.row;
  float* difference =
      a.difference + ((static_cast<std::int64_t>(cell.run) * block.steps + cell.row % block.steps) * block.num_query_heads +
                      block.query_head(cell.kv_head, cell.row)) *
                         block.dim;
  double moved = 0, apart = 0;
  for (int c = static_cast<int>(threadIdx.x); c < block.dim; c += threads) {
    double sum = 0;
    for (int w = 0; w < warps; ++w) sum += vectors[w * block.dim + c];
    const double full = a.sum[row * block.dim + c];
    const double kept = is_kept_one ? sum : full - sum, evicted = is_kept_one ? full : sum;
    const double delta = kept / kept_sum - full / total, gap = kept / kept_sum - evicted / fmax(evicted_sum, 1e-300);
    moved += delta * delta;
    apart += gap * gap;
    difference[c] = static_cast<float>(delta);
  }
  moved = block_sum(moved, work.scratch);
  apart = block_sum(apart, work.scratch);
  if (threadIdx.x != 0) return;
  a.cells[cell.index].difference_norm = static_cast<float>(sqrt(moved));
  a.cells[cell.index].displacement = static_cast<float>(sqrt(apart));
}

template <class Key, class Value>
__global__ void __launch_bounds__(threads) repairs(KeptArguments a, const Key* key, const Value* value) {
  __shared__ Workspace work;
  extern __shared__ double vectors[];  // [warps, d]
  const EvaluationBlock& block = a.block;
  const unsigned long long count = a.repairs[0];
  for (unsigned long long i = blockIdx.x; i < count; i += gridDim.x) {
    const unsigned long long entry = a.repairs[1 + i];
    Cell cell{static_cast<std::int64_t>(entry >> 3), static_cast<unsigned>(entry & 7), 0, 0, 0};
    cell.row = static_cast<int>(cell.index % block.rows());
    cell.kv_head = static_cast<int>(cell.index / block.rows() % block.kv_heads);
    cell.run = static_cast<int>(cell.index / block.rows() / block.kv_heads);
    const RowSummary& summary = a.summary[static_cast<std::int64_t>(cell.kv_head) * block.rows() + cell.row];
    const Key* keys = key + cell.kv_head * a.head_stride;
    const Value* values = value + cell.kv_head * a.head_stride;
    KeptCell& out = a.cells[cell.index];
    double kept_sum = a.kept_sum[cell.index];

    __syncthreads();
    if (threadIdx.x == 0) work.tokens = kept_tokens(a, cell.run, cell.kv_head, cell.row, cell.row);
    for (int c = static_cast<int>(threadIdx.x); c < warps * block.dim; c += threads) vectors[c] = 0;
    for (int c = static_cast<int>(threadIdx.x); c < warps * num_regions; c += threads)
      work.mass[c / num_regions][c % num_regions] = 0;
    __syncthreads();

    if ((cell.reasons & (evicted_by_itself | singles_by_themselves)) != 0) {
      const bool with_vectors = a.sum != nullptr && (cell.reasons & evicted_by_itself) != 0;
      const Evicted evicted = sum_evicted(a, cell, work, values, with_vectors, vectors);
      if (threadIdx.x == 0) {
        out.single_removal_sum = static_cast<float>(evicted.single);
        if ((cell.reasons & evicted_by_itself) != 0) out.evicted_mass = static_cast<float>(evicted.sum / summary.total);
      }
      __syncthreads();
      if (with_vectors) finish_vectors(a, cell, work, vectors, false, kept_sum, evicted.sum, summary.total);
    }
    if ((cell.reasons & afresh) != 0) {
      const double evicted_sum = summary.total - kept_sum;
      const Kept kept = weigh_afresh(a, cell, work, keys, values, vectors);
      __syncthreads();
      if (threadIdx.x == 0) {
        out.divergence = static_cast<float>((summary.top + log(summary.total)) - (kept.top + log(kept.sum)));
        for (int r = 0; r < num_regions; ++r) {
          double mass = 0;
          for (int w = 0; w < warps; ++w) mass += work.mass[w][r];
          out.mass_after[r] = static_cast<float>(mass / kept.sum);
        }
      }
      if (a.sum != nullptr) finish_vectors(a, cell, work, vectors, true, kept.sum, evicted_sum, summary.total);
    }
  }
}

}  // namespace

void launch_repairs(const KeptArguments& a, int multiprocessors, cudaStream_t stream) {
  const auto shared = static_cast<std::size_t>(warps * a.block.dim) * sizeof(double);
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>(a.cell_count(), 4 * multiprocessors));
  with_elements(a.key_type, a.key, [&](const auto* key) {
    with_elements(a.value_type, a.value,
                  [&](const auto* value) { repairs<<<blocks, threads, shared, stream>>>(a, key, value); });
  });
  check_launch("repairs of kept sets' sums");
}

}  // namespace kvreplay::cuda
