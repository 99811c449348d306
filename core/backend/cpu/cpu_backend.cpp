#include "core/backend/cpu/cpu_backend.h"

#include <algorithm>

namespace kvreplay {

HostArrayBuilder::HostArrayBuilder(const ArrayBytes& held, std::vector<std::int64_t> shape) : shape_(std::move(shape)) {
  std::int64_t size = 1;
  for (const auto extent : shape_) size *= extent;
  storage_ = std::make_shared<HostArray>(held, size);
}

std::vector<float> CpuBackend::download(const Array& array) {
  const auto& values = static_cast<const HostArray&>(array.storage()).values;
  return {values.flat().begin(), values.flat().end()};
}

Array CpuBackend::upload(const std::vector<std::int64_t>& shape, const std::vector<float>& values) {
  HostArrayBuilder array(held_, shape);
  std::copy(values.begin(), values.end(), array.data());
  return array.finish();
}

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<CpuBackend>(); }

namespace {

// Inlined into one clone for each instruction set; the compiler vectorises the inner loop.
[[gnu::always_inline]] inline void accumulate_rows_body(const float* rows, std::int64_t dim, const std::int32_t* index,
                                                        const float* weight, std::int64_t count, double* __restrict out) {
  for (std::int64_t k = 0; k < count; ++k) {
    const float* row = rows + (index != nullptr ? index[k] : k) * dim;
    const double w = weight[k];
    for (std::int64_t i = 0; i < dim; ++i) out[i] += w * static_cast<double>(row[i]);
  }
}

[[gnu::target("avx2,fma"), gnu::optimize("O3")]] void accumulate_rows_avx2(const float* rows, std::int64_t dim,
                                                                           const std::int32_t* index, const float* weight,
                                                                           std::int64_t count, double* out) {
  accumulate_rows_body(rows, dim, index, weight, count, out);
}

}  // namespace

void accumulate_rows(const float* rows, std::int64_t dim, const std::int32_t* index, const float* weight, std::int64_t count,
                     double* out) {
  static const bool wide = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  (wide ? accumulate_rows_avx2 : accumulate_rows_body)(rows, dim, index, weight, count, out);
}

}  // namespace kvreplay
