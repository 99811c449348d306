// Attention of the last prompt queries. Internal to gpu.
#pragma once

#include "gpu/array.h"
#include "gpu/kernels/window_fused.h"

namespace kvreplay::cuda {

// The rows written out.
struct WindowRows {
  Buffer<float> weight, dominant, output, rest;
};
// The plain form: every shape and type. output and rest only where asked for.
WindowRows make_window_rows(const CudaLayer& layer, int window, bool with_output);

// Statistics of the rows (kept) and sums over their weights (computed when asked for), without writing the weights.
class WindowAttention {
 public:
  static bool supported(const CudaLayer& layer, int window);
  WindowAttention(const CudaLayer& layer, int window);

  const CudaLayer& layer() const { return *layer_; }
  int window() const { return fused_.shape.window; }
  const FusedWindow& fused() const { return fused_; }
  RowStatistics statistics() const;
  // Whether candidates are all the keys that the rows see.
  bool sees_candidates_alone() const { return fused_.shape.cut == 0; }

  // mean [Hq, n] and, unless null, odds [Hq, n] (launch_window_sums).
  void sum(const std::vector<double>& weights, float* mean, float* odds) const;
  bool reduces_group(int group, Reduction how) const;
  void reduce_group(Reduction how, float* rows) const;  // [Hk, W, n]

  // One of the written-out arrays; each once.
  Buffer<float> take(Buffer<float> WindowRows::*which);

 private:
  std::shared_ptr<const CudaLayer> layer_;
  FusedWindow fused_;
  Buffer<float> statistics_;  // [3, Hq, W]
  std::mutex mutex_;
  std::unique_ptr<WindowRows> rows_;
};

// What `weights` promises, when it was not written out yet.
std::shared_ptr<WindowAttention> promised_window(const Array& weights);

RowWeights narrowed(const std::vector<double>& weights);

}  // namespace kvreplay::cuda
