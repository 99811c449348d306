// The kernels of one instruction set, as functions to call. kernels.cpp picks a table once, at the first call.
//
// kernels_impl.inc is compiled once per instruction set, in a file of its own with that set's compiler options. Those
// files include no header with inline functions (no standard library, no Eigen): the linker keeps one copy of an inline
// function for the whole program, and it must not be one that needs instructions the machine lacks.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace kvreplay::kernels {

// A product C[m, n] = scale * A[m, k] * B, where B is [n, k] (transposed) or [k, n].
struct Product {
  int64_t m, n, k;
  float scale;
  const float* a;
  int64_t lda;
  const float* b;
  int64_t ldb;
  float* c;
  int64_t ldc;
  bool b_transposed;
  bool accumulate;
};

struct KernelTable {
  const char* name;
  size_t scratch_floats;  // what `gemm` and `gemm_packed` need, 64-byte aligned
  void (*gemm)(const Product& product, float* scratch);
  // B[n, k] as panels: what `gemm_packed` reads in place of product.b.
  size_t (*packed_floats)(int64_t n, int64_t k);
  void (*pack)(int64_t n, int64_t k, const float* b, int64_t ldb, float* packed);
  // Columns [first, first + product.n) of a product with a packed matrix of `total` rows; first is a multiple of 32.
  void (*gemm_packed)(const Product& product, const float* packed, int64_t total, int64_t first, float* scratch);
  float (*dot)(const float* a, const float* b, int64_t n);
  float (*maximum)(const float* x, int64_t n);
  double (*sum)(const float* x, int64_t n);
  double (*exponentiate)(float* x, int64_t n, float shift);
  void (*scale_in_place)(float* x, int64_t n, float factor);
  void (*add_scaled)(float* y, const float* x, int64_t n, float factor);
  void (*soft_cap)(float* x, int64_t n, float cap);
  void (*squared_distances)(const float* points, int64_t count, int64_t dim, int64_t stride, const float* center,
                            float* out);
  // Conversions; null where the set has no instructions for them.
  void (*half_to_float)(const uint16_t* source, float* target, size_t count);
  void (*float_to_half)(const float* source, uint16_t* target, size_t count);
  void (*bfloat16_to_float)(const uint16_t* source, float* target, size_t count);
  void (*float_to_bfloat16)(const float* source, uint16_t* target, size_t count);
};

extern const KernelTable baseline_kernels;
#if defined(__x86_64__)
extern const KernelTable avx2_kernels;
extern const KernelTable avx512_kernels;
#endif

// The table in use: the best that the machine has, or a lower one named by KVREPLAY_ISA.
const KernelTable& active_kernels();

}  // namespace kvreplay::kernels
