// A weight matrix with an optional bias, as the engine multiplies with it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/base/tensor.h"
#include "core/model/weight_files.h"

namespace kvreplay {

class Linear {
 public:
  Linear() = default;
  // weight: [outputs, inputs]. keep: convert to float32 panels now, once; otherwise the matrix stays in the mapped file
  // and pieces of it are converted at every use (models too large to hold in float32).
  Linear(const StoredTensor& weight, const std::optional<StoredTensor>& bias, bool keep);

  std::int64_t outputs() const { return outputs_; }
  std::int64_t inputs() const { return inputs_; }
  // y[rows, outputs] = x[rows, inputs] W^T + bias, on all threads.
  void apply(std::int64_t rows, const float* x, float* y) const;
  // The matrix as float32, [outputs, inputs].
  Tensor<float, 2> matrix() const;

 private:
  std::int64_t outputs_ = 0, inputs_ = 0;
  StoredTensor weight_;
  Tensor<float, 1> packed_;  // empty unless kept
  std::vector<float> bias_;
};

}  // namespace kvreplay
