// The plain form of every kernel in kernels.h, with the same contracts: what the fast ones are checked against.
#pragma once

#include <cstdint>

namespace kvreplay::kernels::plain {

void gemm_nt(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda, const float* b,
             std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate = false);
void gemm_nn(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda, const float* b,
             std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate = false);
float dot(const float* a, const float* b, std::int64_t n);
float maximum(const float* x, std::int64_t n);
double sum(const float* x, std::int64_t n);
double exponentiate(float* x, std::int64_t n, float shift);
void scale_in_place(float* x, std::int64_t n, float factor);
void add_scaled(float* y, const float* x, std::int64_t n, float factor);
void soft_cap(float* x, std::int64_t n, float cap);
void squared_distances(const float* points, std::int64_t count, std::int64_t dim, std::int64_t stride, const float* center,
                       float* out);

}  // namespace kvreplay::kernels::plain
