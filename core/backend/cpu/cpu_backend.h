// The reference backend: float32 storage, sums over keys in float64, every operation on all threads. Operations are
// grouped by file: attention.cpp, reconstruction.cpp, smoothing.cpp, selection.cpp, evaluate.cpp.
#pragma once

#include <atomic>
#include <mutex>
#include <utility>

#include "core/backend/backend.h"
#include "core/backend/order_key.h"

namespace kvreplay {

struct KeptSteps;  // core/backend/cpu/full_step.h

struct CpuLayer final : LoadedLayer {
  Tensor<float, 3> key;    // [Hk, T, d]
  Tensor<float, 3> value;  // [Hk, T, d]

  // Rows of /queries/positions that hold positions [begin, end), or {-1, -1} when one of them is missing.
  std::pair<std::int64_t, std::int64_t> query_rows(std::int64_t begin, std::int64_t end) const;
  // Queries of positions [begin, end): [heads, end - begin, d]. Throws Error when one was not recorded; `purpose` says what
  // needed it.
  Tensor<float, 3> queries(int first_head, int end_head, std::int64_t begin, std::int64_t end,
                           const std::string& purpose) const;
  // [Hq, r, d] with ‖R_h x‖ = ‖W_h x‖: R_h is W_h itself when C <= d, else a square factor of the Gram matrix.
  const Tensor<float, 3>& projection_factor() const;
  // What evaluate() keeps of the full cache for its next calls; null where the request does not ask for it.
  KeptSteps* kept_steps(const EvaluationRequest& request) const;

 private:
  mutable std::mutex factor_mutex_;
  mutable Tensor<float, 3> factor_;
  mutable std::shared_ptr<KeptSteps> kept_steps_;
};

// Bytes of a backend's arrays, which may outlive it.
using ArrayBytes = std::shared_ptr<std::atomic<std::int64_t>>;

class CpuBackend final : public Backend {
 public:
  std::string name() const override { return "cpu"; }
  BackendPlan plan(const Trace&, std::size_t, const EvaluationRequest&) const override {
    return {.shared_bytes = std::int64_t{2} << 30};
  }
  std::int64_t array_bytes() const override { return *held_; }
  std::shared_ptr<LoadedLayer> load(const Trace& trace, int layer) override;
  std::vector<float> download(const Array& array) override;
  Array upload(const std::vector<std::int64_t>& shape, const std::vector<float>& values) override;

  AttentionRows window_attention(const LoadedLayer& layer, int window, bool with_output) override;
  Array column_sums(const LoadedLayer& layer, ColumnMask mask, int window) override;
  Array decode_attention_sum(const LoadedLayer& layer) override;
  Tensor<float, 2> decode_logits(const LoadedLayer& layer, int query_head) override;
  // Of decode steps [first, end) alone: [end - first, T].
  static Tensor<float, 2> decode_logits(const CpuLayer& layer, int query_head, std::int64_t first, std::int64_t end);

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

 private:
  const ArrayBytes held_ = std::make_shared<std::atomic<std::int64_t>>(0);
};

// Arrays of the CPU backend are host tensors. A fresh one is written through `data` before it becomes an Array.
struct HostArray final : Array::Storage {
  HostArray(ArrayBytes held, std::int64_t size) : values({size}), held_(std::move(held)) { *held_ += bytes(); }
  ~HostArray() override { *held_ -= bytes(); }
  HostArray(const HostArray&) = delete;
  HostArray& operator=(const HostArray&) = delete;

  Tensor<float, 1> values;

 private:
  std::int64_t bytes() const { return values.size() * static_cast<std::int64_t>(sizeof(float)); }
  const ArrayBytes held_;
};

class HostArrayBuilder {
 public:
  HostArrayBuilder(const ArrayBytes& held, std::vector<std::int64_t> shape);
  float* data() { return storage_->values.data(); }
  Array finish() { return {std::move(shape_), std::move(storage_)}; }

 private:
  std::vector<std::int64_t> shape_;
  std::shared_ptr<HostArray> storage_;
};

inline const float* host_data(const Array& array) { return static_cast<const HostArray&>(array.storage()).values.data(); }

// out[i] += Σ_k weight[k] · rows[index[k] · dim + i] in float64; index may be null for rows 0 … count - 1.
void accumulate_rows(const float* rows, std::int64_t dim, const std::int32_t* index, const float* weight, std::int64_t count,
                     double* out);

}  // namespace kvreplay
