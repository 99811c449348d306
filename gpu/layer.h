// A layer of a trace on a device. Internal to gpu.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "core/backend/backend.h"
#include "gpu/kernels/evaluate_project.h"
#include "gpu/loader.h"

namespace kvreplay::cuda {

struct CudaLayer final : LoadedLayer, std::enable_shared_from_this<CudaLayer> {
  Device* device = nullptr;
  Loader* loader = nullptr;
  ElementType type = ElementType::float32;  // of the keys
  DeviceTensor key, value;                  // [Hk, T, d]

  // All recorded queries whose position is in [begin, end): [Hq, rows, d], uploaded once for each range; positions on the
  // host say which.
  struct Queries {
    DeviceTensor rows;
    std::vector<std::int32_t> positions;
    Buffer<std::int32_t> device_positions;
  };
  const Queries& recorded_queries(std::int64_t begin, std::int64_t end) const;
  // The same, of a range in which every position must have been recorded; else throws Error, `purpose` says what needed it.
  const Queries& queries(std::int64_t begin, std::int64_t end, const std::string& purpose) const;

  // [Hq, r, d] float32 with ‖R_h x‖ = ‖W_h x‖: R_h is W_h itself when C <= d, else an upper triangular (or, where G is
  // singular, square) factor of the Gram matrix. rows: r.
  struct Factor {
    Buffer<float> matrix;
    std::int64_t rows = 0;
    bool triangular = false;
  };
  const Factor& projection_factor() const;

  // The same in float16 with a power of two for each head (gpu/kernels/removal_fused.h), of the factor or of the identity.
  // Only where the factor is square.
  struct RoundedFactor {
    Buffer<std::byte> matrix;  // [Hq, d, d] float16
    Buffer<float> unit;        // [Hq]
    bool triangular = false;
    float value_scale = 1;
  };
  const RoundedFactor& rounded_factor(bool project) const;

  // W_o, uploaded once for the layer. Empty where the trace has none.
  struct OutputProjection {
    DeviceTensor stored;     // [1, C, Hq · d]
    Buffer<std::byte> half;  // of bfloat16: the same in float16, with a power of two for each row of W_o in `unit`
    Buffer<float> unit;

    bool empty() const { return stored.bytes.empty(); }
    // Whether half_projection() may be asked for (gpu/kernels/evaluate_project.h).
    bool on_tensor_cores() const;
    HalfProjection half_projection() const;
  };
  const OutputProjection& output_projection() const;

  DeviceTensor upload(LayerDataset which, IndexRange heads = {}, IndexRange rows = {}) const {
    return loader->load(*trace, layer, which, heads, rows);
  }

 private:
  const OutputProjection& loaded_projection() const;  // with mutex_ held

  mutable std::mutex mutex_;
  mutable std::map<std::pair<std::int64_t, std::int64_t>, Queries> queries_;
  mutable std::unique_ptr<OutputProjection> projection_;
  mutable std::unique_ptr<Factor> factor_;
  mutable std::unique_ptr<RoundedFactor> rounded_, rounded_identity_;
};

}  // namespace kvreplay::cuda
