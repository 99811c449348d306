// Tensor-core and asynchronous-copy instructions of sm_80 and later, one function an instruction.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace kvreplay::cuda {

__device__ inline unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// 16 bytes from global to shared memory, zeros when !inside.
__device__ inline void copy_async_16(void* shared, const void* global, bool inside) {
  const int bytes = inside ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)), "l"(global), "r"(bytes));
}
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;\n"); }
// Waits until at most `pending` groups of this thread are under way.
template <int pending>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(pending));
}

// Four 8 × 8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8 and receives, of each
// matrix, the elements 2 (i % 4) and 2 (i % 4) + 1 of row i / 4.
__device__ inline void load_matrices(unsigned (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row)));
}

// sum [16, 8] += a [16, 16] · b [8, 16]ᵀ. Lane i holds of the sum: columns 2 (i % 4) and + 1 of rows i / 4 (0, 1) and
// i / 4 + 8 (2, 3).
template <class Element>
__device__ inline void multiply_add(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  if constexpr (std::is_same_v<Element, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};\n"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// 2^x to about 2 units in the last place; 0 for -infinity.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// A tile of `rows` rows of `dim` 16-bit elements in shared memory. Rows are 16 bytes longer than they need to be, so that
// the eight rows of a matrix of load_matrices lie in different banks.
template <int dim>
struct PaddedTile {
  static constexpr int stride = dim + 8;  // elements
  static constexpr int bytes(int rows) { return rows * stride * 2; }
};

// Starts copying rows [first, first + rows) of `source` [limit, dim] to a PaddedTile; rows at or past `limit` become zeros.
template <int dim, int rows, int threads, class Element>
__device__ inline void copy_rows_async(Element* tile, const Element* source, std::int64_t first, std::int64_t limit) {
  constexpr int chunks = dim / 8;
#pragma unroll
  for (int i = 0; i < (rows * chunks + threads - 1) / threads; ++i) {
    const int at = i * threads + static_cast<int>(threadIdx.x);
    if ((rows * chunks) % threads != 0 && at >= rows * chunks) break;
    const int row = at / chunks, chunk = at % chunks;
    const bool inside = first + row < limit;
    copy_async_16(tile + row * PaddedTile<dim>::stride + chunk * 8, source + (inside ? (first + row) * dim : 0) + chunk * 8,
                  inside);
  }
}

// Streams rows of a matrix [limit, dim] through shared memory, `tile_rows` at a time and `stages` tiles deep. Every thread
// of the block calls body(tile in shared memory, its first row) for tiles [tile, tile_end), in order; a tile's slot is
// written again `stages` tiles later.
template <class Element, int dim, int tile_rows, int stages, int threads>
struct RowStream {
  static constexpr int tile_elements = tile_rows * PaddedTile<dim>::stride;
  static constexpr int bytes = stages * tile_elements * 2;

  template <class Body>
  static __device__ void run(const Element* source, std::int64_t limit, std::int64_t tile, std::int64_t tile_end,
                             Element* shared, Body&& body) {
#pragma unroll
    for (int s = 0; s < stages - 1; ++s) {
      if (tile + s < tile_end)
        copy_rows_async<dim, tile_rows, threads>(shared + s * tile_elements, source, (tile + s) * tile_rows, limit);
      copy_async_commit();
    }
    int slot = 0;
    for (; tile < tile_end; ++tile) {
      copy_async_wait<stages - 2>();
      __syncthreads();  // the tile is there for every thread, and nobody reads the slot before it any more
      const int free_slot = slot == 0 ? stages - 1 : slot - 1;
      if (tile + stages - 1 < tile_end)
        copy_rows_async<dim, tile_rows, threads>(shared + free_slot * tile_elements, source, (tile + stages - 1) * tile_rows,
                                                 limit);
      copy_async_commit();
      body(shared + slot * tile_elements, tile * tile_rows);
      slot = slot + 1 == stages ? 0 : slot + 1;
    }
    copy_async_wait<0>();
  }
};

}  // namespace kvreplay::cuda
