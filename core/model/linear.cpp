#include <algorithm>

#include "core/base/parallel.h"
#include "core/kernels/kernels.h"
#include "core/model/linear_internal.h"

namespace kvreplay {
namespace {

// Rows of a mapped matrix that are converted at a time: small enough for the cache, enough for the product to be fast.
constexpr std::int64_t piece = 64;

}  // namespace

Linear::Linear(const StoredTensor& weight, const std::optional<StoredTensor>& bias, bool keep)
    : outputs_(weight.shape[0]), inputs_(weight.shape[1]), weight_(weight) {
  if (bias) {
    bias_.resize(static_cast<std::size_t>(outputs_));
    bias->read(0, outputs_, bias_.data());
  }
  if (!keep) return;
  const Tensor<float, 2> plain = matrix();
  packed_ = Tensor<float, 1>({static_cast<std::int64_t>(kernels::packed_floats(outputs_, inputs_))});
  kernels::pack(outputs_, inputs_, plain.data(), inputs_, packed_.data());
}

Tensor<float, 2> Linear::matrix() const {
  Tensor<float, 2> plain({outputs_, inputs_});
  weight_.read(0, outputs_ * inputs_, plain.data());
  return plain;
}

void Linear::apply(std::int64_t rows, const float* x, float* y) const {
  if (!packed_.empty()) {
    kernels::parallel_gemm_packed(rows, outputs_, inputs_, 1.0F, x, inputs_, packed_.data(), y, outputs_);
  } else {
    parallel_for(outputs_, piece, [&](std::int64_t begin, std::int64_t end) {
      thread_local Tensor<float, 1> converted;
      if (converted.dim(0) < piece * inputs_) converted = Tensor<float, 1>({piece * inputs_});
      weight_.read(begin * inputs_, (end - begin) * inputs_, converted.data());
      kernels::gemm_nt(rows, end - begin, inputs_, 1.0F, x, inputs_, converted.data(), inputs_, y + begin, outputs_);
    });
  }
  if (bias_.empty()) return;
  parallel_for(rows, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) kernels::add_scaled(y + i * outputs_, bias_.data(), outputs_, 1.0F);
  });
}

}  // namespace kvreplay
