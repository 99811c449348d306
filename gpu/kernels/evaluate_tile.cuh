// Σ weight · value over tokens in float64, a tile of 64 rows at a time: what both the full cache's and the kept sets'
// outputs are made of. Two rungs with the same sums and the same interface:
// - plain: each thread a 4 × 8 part of the result by fused multiply-adds; bound by their float64 rate (33 TFLOP/s on H100),
// - tensor cores in float64, twice that rate; a warp holds 16 rows × half of the columns. mma.m16n8k8 from sm_90 on, where
// the
//   m8n8k4 of sm_80 has a fraction of the rate.
// Both round every sum to float64; only the order of additions differs. Included by kernels alone.
#pragma once

#include <cstring>
#include <type_traits>

#include "gpu/kernels/elements.cuh"

namespace kvreplay::cuda {

constexpr int tile_rows = 64, tile_tokens = 16, tile_threads = 256;

template <int Columns>
struct WeightedTile {
  // Four doubles of padding put the four token rows that a warp reads at once into different banks.
  double weight[tile_tokens][tile_rows + 4];
  double value[tile_tokens][Columns + 4];
};

// The sums that one thread holds: at[i][j] is row row(i), column column(j) of the tile.
template <int Columns>
struct PlainSums {
  static constexpr int rows = 4, columns = Columns / 16, sharers = 16, slots = 1;
  double at[rows][columns];

  static __device__ int row(int i) { return static_cast<int>(threadIdx.x) / 16 + 16 * i; }
  static __device__ int column(int j) { return static_cast<int>(threadIdx.x) % 16 + 16 * j; }
  static __device__ int slot() { return 0; }

  __device__ void add(const WeightedTile<Columns>& tile) {
    for (int k = 0; k < tile_tokens; ++k) {
      double w[rows], v[columns];
#pragma unroll
      for (int i = 0; i < rows; ++i) w[i] = tile.weight[k][row(i)];
#pragma unroll
      for (int j = 0; j < columns; ++j) v[j] = tile.value[k][column(j)];
#pragma unroll
      for (int i = 0; i < rows; ++i)
#pragma unroll
        for (int j = 0; j < columns; ++j) at[i][j] = fma(w[i], v[j], at[i][j]);
    }
  }
};

template <int Columns>
struct TensorCoreSums {
  static constexpr int rows = 2, columns = Columns / 8, sharers = 4, slots = 2;
  double at[rows][columns];

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % warp_size; }
  static __device__ int slot() { return static_cast<int>(threadIdx.x) / warp_size % 2; }
  static __device__ int row(int i) { return static_cast<int>(threadIdx.x) / (2 * warp_size) * 16 + 8 * i + lane() / 4; }
  static __device__ int column(int j) { return slot() * (Columns / 2) + j / 2 * 8 + lane() % 4 * 2 + j % 2; }

  __device__ void add(const WeightedTile<Columns>& tile) {
#if __CUDA_ARCH__ >= 900
#pragma unroll
    for (int k = 0; k < tile_tokens; k += 8) {
      double a[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = tile.weight[k + i / 2 * 4 + lane() % 4][row(i % 2)];
#pragma unroll
      for (int j = 0; j < columns; j += 2) {
        const int column = slot() * (Columns / 2) + j / 2 * 8 + lane() / 4;
        asm("mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
            "%3};"
            : "+d"(at[0][j]), "+d"(at[0][j + 1]), "+d"(at[1][j]), "+d"(at[1][j + 1])
            : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(tile.value[k + lane() % 4][column]),
              "d"(tile.value[k + 4 + lane() % 4][column]));
      }
    }
#else
#pragma unroll
    for (int k = 0; k < tile_tokens; k += 4) {
      double a[rows];
#pragma unroll
      for (int i = 0; i < rows; ++i) a[i] = tile.weight[k + lane() % 4][row(i)];
#pragma unroll
      for (int j = 0; j < columns; j += 2) {
        const double b = tile.value[k + lane() % 4][slot() * (Columns / 2) + j / 2 * 8 + lane() / 4];
#pragma unroll
        for (int i = 0; i < rows; ++i)
          asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
              : "+d"(at[i][j]), "+d"(at[i][j + 1])
              : "d"(a[i]), "d"(b));
      }
    }
#endif
  }
};

// `count` neighbours of a row of values as they are stored, 1 or 2; the first `inside` of them are in the row.
template <class Element, int count>
struct Neighbours {
  Element at[count];

  __device__ void load(const Element* values, bool aligned, int inside) {
    if (count == 2 && inside >= 2 && aligned) {
      using Word = std::conditional_t<sizeof(at) == 8, uint2, unsigned>;
      const Word word = *reinterpret_cast<const Word*>(values);
      memcpy(at, &word, sizeof(at));
      return;
    }
#pragma unroll
    for (int i = 0; i < count; ++i) at[i] = i < inside ? values[i] : Element(0.0F);
  }
};

// sums += Σ over tokens k in [begin, end): weight_of(k, column, row of the tile) · value[column][first_dim ..], where
// column = column_of(k) >= 0. All threads must call it.
template <int Columns, class Sums, class Element, class ColumnOf, class WeightOf>
__device__ void add_tokens(Sums& sums, WeightedTile<Columns>& tile, int begin, int end, ColumnOf column_of,
                           WeightOf weight_of, const Element* value, int dim, int first_dim) {
  // A thread has every fourth token of a tile, and of each one row and one or two columns.
  constexpr int each = Columns / tile_rows, token_step = tile_threads / tile_rows, loads = tile_tokens / token_step;
  const int first_token = static_cast<int>(threadIdx.x) / tile_rows, r = static_cast<int>(threadIdx.x) % tile_rows;
  const int c = first_dim + each * r;
  const bool aligned = dim % 2 == 0 && reinterpret_cast<std::uintptr_t>(value) % (2 * sizeof(Element)) == 0;
  int column[loads];
  float weight[loads];
  Neighbours<Element, each> part[loads];
  // While the tensor cores work on a tile, the next one travels in registers and the columns of the one after it are looked
  // up, so that no load waits for another.
  const auto find = [&](int first) {
#pragma unroll
    for (int i = 0; i < loads; ++i) {
      const int k = first + first_token + i * token_step;
      column[i] = k < end ? column_of(k) : -1;
    }
  };
  const auto load = [&](int first) {
#pragma unroll
    for (int i = 0; i < loads; ++i) {
      const bool inside = column[i] >= 0;
      weight[i] = inside ? weight_of(first + first_token + i * token_step, column[i], r) : 0.0F;
      part[i].load(value + (inside ? static_cast<std::int64_t>(column[i]) * dim + c : 0), aligned, inside ? dim - c : 0);
    }
  };
  find(begin);
  load(begin);
  find(begin + tile_tokens);
  for (int first = begin; first < end; first += tile_tokens) {
#pragma unroll
    for (int i = 0; i < loads; ++i) {
      const int token = first_token + i * token_step;
      tile.weight[token][r] = static_cast<double>(weight[i]);
#pragma unroll
      for (int j = 0; j < each; ++j) tile.value[token][each * r + j] = static_cast<double>(to_float(part[i].at[j]));
    }
    __syncthreads();
    load(first + tile_tokens);
    find(first + 2 * tile_tokens);
    sums.add(tile);
    __syncthreads();
  }
}

// Sum over the threads that share a row; the first of them holds it.
template <class Sums>
__device__ double sum_over_sharers(double value) {
#pragma unroll
  for (int offset = Sums::sharers / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(all_lanes, value, offset);
  return value;
}

}  // namespace kvreplay::cuda
