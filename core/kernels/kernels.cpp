// Chooses the instruction set once and hands every call to its table.
#include "core/kernels/kernels.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "core/base/parallel.h"
#include "core/base/tensor.h"
#include "core/kernels/table.h"

namespace kvreplay::kernels {
namespace {

const KernelTable& choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const char* wish = std::getenv("KVREPLAY_ISA");
  const std::string limit = wish != nullptr ? wish : "";
  // Every processor with AVX2 has F16C (half conversions); clang 16 does not know the name.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  if (limit == "baseline" || !avx2) return baseline_kernels;
  if (limit == "avx2" || !avx512) return avx2_kernels;
  return avx512_kernels;
#else
  return baseline_kernels;
#endif
}

// One buffer a thread, for the life of the thread.
float* scratch() {
  thread_local Tensor<float, 1> buffer({static_cast<std::int64_t>(active_kernels().scratch_floats)});
  return buffer.data();
}

// Pieces of C for several threads. Their borders depend on the shape alone.
constexpr std::int64_t piece_rows = 192, piece_columns = 256;

template <class Body>
void for_each_piece(std::int64_t m, std::int64_t n, const Body& body) {
  const std::int64_t down = (m + piece_rows - 1) / piece_rows, across = (n + piece_columns - 1) / piece_columns;
  parallel_for(down * across, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const std::int64_t i = piece / across * piece_rows, j = piece % across * piece_columns;
      body(i, std::min(piece_rows, m - i), j, std::min(piece_columns, n - j));
    }
  });
}

}  // namespace

const KernelTable& active_kernels() {
  static const KernelTable& chosen = choose();
  return chosen;
}

const char* instruction_set() { return active_kernels().name; }

void gemm_nt(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda, const float* b,
             std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate) {
  active_kernels().gemm({m, n, k, scale, a, lda, b, ldb, c, ldc, true, accumulate}, scratch());
}

void gemm_nn(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda, const float* b,
             std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate) {
  active_kernels().gemm({m, n, k, scale, a, lda, b, ldb, c, ldc, false, accumulate}, scratch());
}

void parallel_gemm_nt(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda,
                      const float* b, std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate) {
  for_each_piece(m, n, [&](std::int64_t i, std::int64_t rows, std::int64_t j, std::int64_t columns) {
    gemm_nt(rows, columns, k, scale, a + i * lda, lda, b + j * ldb, ldb, c + i * ldc + j, ldc, accumulate);
  });
}

void parallel_gemm_nn(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda,
                      const float* b, std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate) {
  for_each_piece(m, n, [&](std::int64_t i, std::int64_t rows, std::int64_t j, std::int64_t columns) {
    gemm_nn(rows, columns, k, scale, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc, accumulate);
  });
}

std::size_t packed_floats(std::int64_t n, std::int64_t k) { return active_kernels().packed_floats(n, k); }

void pack(std::int64_t n, std::int64_t k, const float* b, std::int64_t ldb, float* packed) {
  active_kernels().pack(n, k, b, ldb, true, packed);
}

void pack_nn(std::int64_t n, std::int64_t k, const float* b, std::int64_t ldb, float* packed) {
  active_kernels().pack(n, k, b, ldb, false, packed);
}

void gemm_packed(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda,
                 const float* packed, float* c, std::int64_t ldc, bool accumulate) {
  gemm_packed_part(m, n, k, scale, a, lda, packed, {n, k, 0, 0}, c, ldc, accumulate);
}

void gemm_packed_part(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda,
                      const float* packed, const PackedPart& part, float* c, std::int64_t ldc, bool accumulate) {
  active_kernels().gemm_packed({m, n, k, scale, a, lda, nullptr, 0, c, ldc, true, accumulate}, packed, part, scratch());
}

void parallel_gemm_packed(std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a, std::int64_t lda,
                          const float* packed, float* c, std::int64_t ldc, bool accumulate) {
  static_assert(piece_columns % 32 == 0);
  for_each_piece(m, n, [&](std::int64_t i, std::int64_t rows, std::int64_t j, std::int64_t columns) {
    gemm_packed_part(rows, columns, k, scale, a + i * lda, lda, packed, {n, k, j, 0}, c + i * ldc + j, ldc, accumulate);
  });
}

float dot(const float* a, const float* b, std::int64_t n) { return active_kernels().dot(a, b, n); }
float maximum(const float* x, std::int64_t n) { return active_kernels().maximum(x, n); }
double sum(const float* x, std::int64_t n) { return active_kernels().sum(x, n); }
double exponentiate(float* x, std::int64_t n, float shift) { return active_kernels().exponentiate(x, n, shift); }
void scale_in_place(float* x, std::int64_t n, float factor) { active_kernels().scale_in_place(x, n, factor); }
void add_scaled(float* y, const float* x, std::int64_t n, float factor) { active_kernels().add_scaled(y, x, n, factor); }
void soft_cap(float* x, std::int64_t n, float cap) { active_kernels().soft_cap(x, n, cap); }
void squared_distances(const float* points, std::int64_t count, std::int64_t dim, std::int64_t stride, const float* center,
                       float* out) {
  active_kernels().squared_distances(points, count, dim, stride, center, out);
}

}  // namespace kvreplay::kernels
