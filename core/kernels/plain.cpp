// The plain form of every kernel: what the fast ones are checked against.
#include "core/kernels/plain.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kvreplay::kernels::plain {

void gemm_nt(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda, const float* b,
             std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate) {
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      const float value = scale * dot(a + i * lda, b + j * ldb, k);
      float& target = c[i * ldc + j];
      target = accumulate ? target + value : value;
    }
}

void gemm_nn(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda, const float* b,
             std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate) {
  for (std::int64_t i = 0; i < m; ++i) {
    if (!accumulate) std::fill_n(c + i * ldc, n, 0.0F);
    for (std::int64_t p = 0; p < k; ++p) add_scaled(c + i * ldc, b + p * ldb, n, scale * a[i * lda + p]);
  }
}

float dot(const float* a, const float* b, std::int64_t n) {
  float lanes[8] = {};
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int l = 0; l < 8; ++l) lanes[l] += a[i + l] * b[i + l];
  float total = 0;
  for (; i < n; ++i) total += a[i] * b[i];
  for (float lane : lanes) total += lane;
  return total;
}

float maximum(const float* x, std::int64_t n) {
  float best = -std::numeric_limits<float>::infinity();
  for (std::int64_t i = 0; i < n; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

double sum(const float* x, std::int64_t n) {
  double total = 0;
  for (std::int64_t i = 0; i < n; ++i) total += x[i];
  return total;
}

double exponentiate(float* x, std::int64_t n, float shift) {
  double total = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    x[i] = std::exp(x[i] - shift);
    total += x[i];
  }
  return total;
}

void scale_in_place(float* x, std::int64_t n, float factor) {
  for (std::int64_t i = 0; i < n; ++i) x[i] *= factor;
}

void add_scaled(float* y, const float* x, std::int64_t n, float factor) {
  for (std::int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

void soft_cap(float* x, std::int64_t n, float cap) {
  for (std::int64_t i = 0; i < n; ++i) x[i] = cap * std::tanh(x[i] / cap);
}

void squared_distances(const float* points, std::int64_t count, std::int64_t dim, std::int64_t stride, const float* center,
                       float* out) {
  for (std::int64_t j = 0; j < count; ++j) {
    float lanes[8] = {};
    std::int64_t i = 0;
    for (; i + 8 <= dim; i += 8)
      for (int l = 0; l < 8; ++l) {
        const float difference = points[j * stride + i + l] - center[i + l];
        lanes[l] += difference * difference;
      }
    float total = 0;
    for (; i < dim; ++i) {
      const float difference = points[j * stride + i] - center[i];
      total += difference * difference;
    }
    for (float lane : lanes) total += lane;
    out[j] = total;
  }
}

}  // namespace kvreplay::kernels::plain
