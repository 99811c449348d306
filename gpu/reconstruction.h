// Removal errors of the window's queries. Internal to gpu.
//
// They are promised (gpu/array.h): [Hq, W, n] numbers, where a score needs their sums over the window and over a group's
// heads, which come out of one pass over keys and values.
#pragma once

#include "gpu/kernels/removal_window.h"
#include "gpu/window.h"

namespace kvreplay::cuda {

class RemovalErrors {
 public:
  static bool supported(const WindowAttention& window, const ReconstructionForm& form);
  RemovalErrors(std::shared_ptr<WindowAttention> window, const ReconstructionForm& form);

  const WindowAttention& window() const { return *window_; }
  Buffer<float> rows() const;  // [Hq, W, n]

  bool averages_group(int group, Reduction how) const;
  static bool sums_with(const std::vector<double>& weights);
  // Σ_w weights[w] · error: [Hq, n], or [Hk, n] of the mean over each group.
  void sum(const std::vector<double>& weights, bool over_group, float* out) const;

 private:
  PreparedRemoval prepared() const;
  void launch(const RowWeights& weights, RemovalSums form, float* out) const;

  std::shared_ptr<WindowAttention> window_;
  WindowRemoval removal_;
  Buffer<PreparedRemoval::Row> row_;
  Buffer<std::byte> direction_;
  Buffer<float> point_, center_, distance_;
};

// What `errors` promises, when it was not written out yet.
std::shared_ptr<RemovalErrors> promised_errors(const Array& errors);
// The mean over each group of query heads of promised errors, promised as well.
Array promised_group_errors(const Array& errors, const std::shared_ptr<RemovalErrors>& promise);

}  // namespace kvreplay::cuda
