// The inner loops that everything fast is made of: products, softmax pieces, norms, in float32 on row-major data.
//
// Each has one source, compiled for several vector widths (baseline x86-64, AVX2 + FMA, AVX-512) and chosen at run time,
// so a binary built for old machines is fast on new ones. Sums are split over vector lanes in a fixed order: the same
// machine gives the same bits whatever the number of threads. Only the parallel_ forms use the thread pool; the others
// may be called from its threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvreplay::kernels {

// C[m, n] = scale * A[m, k] * B[n, k]^T, or C += that. lda, ldb, ldc: elements from one row to the next.
void gemm_nt(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda, const float* b,
             std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate = false);

// C[m, n] = scale * A[m, k] * B[k, n], or C += that.
void gemm_nn(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda, const float* b,
             std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate = false);

// The same two on all threads, for large products: C is cut into pieces of a fixed size.
void parallel_gemm_nt(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda,
                      const float* b, std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate = false);
void parallel_gemm_nn(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda,
                      const float* b, std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate = false);

// B[n, k] (the layout of a weight matrix: one row an output) packed once for many products: panels as the inner kernel
// reads them, so that products with few rows of A pay nothing for it. `packed`: packed_floats(n, k) floats, 64-byte aligned.
std::size_t packed_floats(std::int64_t n, std::int64_t k);
void pack(std::int64_t n, std::int64_t k, const float* b, std::int64_t ldb, float* packed);
// The same from B[k, n].
void pack_nn(std::int64_t n, std::int64_t k, const float* b, std::int64_t ldb, float* packed);
// gemm_nt with such a matrix.
void gemm_packed(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda,
                 const float* packed, float* c, std::int64_t ldc, bool accumulate = false);
void parallel_gemm_packed(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda,
                          const float* packed, float* c, std::int64_t ldc, bool accumulate = false);

// A product with n columns and k rows of a packed matrix from part.first_n and part.first_k on: keys and values of a whole
// sequence are packed once and every block of queries uses what it sees.
struct PackedPart;  // core/kernels/table.h
void gemm_packed_part(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda,
                      const float* packed, const PackedPart& part, float* c, std::int64_t ldc, bool accumulate = false);

float dot(const float* a, const float* b, std::int64_t n);
float maximum(const float* x, std::int64_t n);  // -inf for n = 0; NaN elements are ignored
double sum(const float* x, std::int64_t n);     // accumulated in float64
// x[i] = exp(x[i] - shift); returns the sum in float64. exp(-inf) is 0. Relative error below 2^-22;
// results below 2^-125 become 0, NaN stays NaN.
double exponentiate(float* x, std::int64_t n, float shift);
void scale_in_place(float* x, std::int64_t n, float factor);
void add_scaled(float* y, const float* x, std::int64_t n, float factor);  // y += factor * x
void soft_cap(float* x, std::int64_t n, float cap);                       // x = cap * tanh(x / cap)
// Squared distances of one point to many: out[j] = sum_i (points[j, i] - center[i])^2, no cancellation.
void squared_distances(const float* points, std::int64_t count, std::int64_t dim, std::int64_t stride, const float* center,
                       float* out);

// "baseline", "avx2" or "avx512": what this run uses. KVREPLAY_ISA in the environment forces a lower one.
const char* instruction_set();

}  // namespace kvreplay::kernels
