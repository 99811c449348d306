// The operations of core/backend/backend.h on one GPU. Operations are grouped by file: window.cu (attention of the last
// prompt queries), reconstruction.cpp, evaluate.cpp; the kernels are in gpu/kernels. Internal to gpu.
#pragma once

#include "gpu/array.h"

namespace kvreplay::cuda {

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int device) : device_(device), loader_(device_) {}
  ~CudaBackend() override;
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  std::string name() const override { return "cuda"; }
  BackendPlan plan(const Trace& trace, std::size_t runs, const EvaluationRequest& request) const override;
  std::int64_t array_bytes() const override { return device_.array_bytes(); }
  std::shared_ptr<LoadedLayer> load(const Trace& trace, int layer) override;
  std::vector<float> download(const Array& array) override;
  Array upload(const std::vector<std::int64_t>& shape, const std::vector<float>& values) override;

  AttentionRows window_attention(const LoadedLayer& layer, int window, bool with_output) override;
  Array column_sums(const LoadedLayer& layer, ColumnMask mask, int window) override;
  Array decode_attention_sum(const LoadedLayer& layer) override;
  Tensor<float, 2> decode_logits(const LoadedLayer& layer, int query_head) override;

  Array removal_error_rows(const LoadedLayer& layer, const AttentionRows& rows, const ReconstructionForm& form) override;
  Array removal_error_of_mean(const LoadedLayer& layer, const AttentionRows& rows, const std::vector<double>& weights,
                              const ReconstructionForm& form) override;
  Array reduce_rows(const Array& rows, const std::vector<double>& weights) override;
  Array reduce_group(const Array& scores, int group, Reduction how) override;
  Array key_norms(const LoadedLayer& layer) override;
  Array value_norms(const LoadedLayer& layer) override;
  Array multiply(const Array& scores, const Array& factors, double factor) override;
  Array prefix(const Array& scores, std::int64_t columns) override;

  Array average_pool(const Array& scores, const std::vector<int>& kernel, const std::vector<int>& shift,
                     Padding padding) override;
  Array max_pool(const Array& scores, int kernel) override;
  std::vector<std::vector<double>> mean_top_column(const Array& rows, std::int64_t count, Ties ties) override;
  std::vector<std::vector<std::int32_t>> select_top(const Array& scores, const std::vector<std::int64_t>& count) override;

  void evaluate(const LoadedLayer& layer, const std::vector<RunEvictions>& runs, const EvaluationRequest& request,
                EvaluationSink& sink) override;

  Device& device() { return device_; }

 private:
  Buffer<float> device_weights(const std::vector<double>& weights);

  Device device_;
  Loader loader_;
};

inline const CudaLayer& cuda_layer(const LoadedLayer& layer) { return static_cast<const CudaLayer&>(layer); }

}  // namespace kvreplay::cuda
