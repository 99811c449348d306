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

// Which part of a packed matrix of total_n × total_k a product uses: product.n of n and product.k of k from these on.
struct PackedPart {
  int64_t total_n, total_k;
  int64_t first_n;  // a multiple of 32
  int64_t first_k;
};

struct KernelTable {
  const char* name;
  size_t scratch_floats;  // what `gemm` and `gemm_packed` need, 64-byte aligned
  void (*gemm)(const Product& product, float* scratch);
  // B as panels: what `gemm_packed` reads in place of product.b. b_transposed: b is [n, k], else [k, n].
  size_t (*packed_floats)(int64_t n, int64_t k);
  void (*pack)(int64_t n, int64_t k, const float* b, int64_t ldb, bool b_transposed, float* packed);
  void (*gemm_packed)(const Product& product, const float* packed, const PackedPart& part, float* scratch);
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
