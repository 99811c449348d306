#include "gpu/layer.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/backend/square_factor.h"
#include "core/base/parallel.h"
#include "gpu/kernels/product.h"
#include "gpu/kernels/removal_fused.h"

namespace kvreplay::cuda {
const CudaLayer::Queries& CudaLayer::recorded_queries(std::int64_t begin, std::int64_t end) const {
  const std::lock_guard lock(mutex_);
  const auto found = queries_.find({begin, end});
  if (found != queries_.end()) return found->second;
  const auto& all = trace->query_positions();
  const auto first = std::lower_bound(all.begin(), all.end(), begin), last = std::lower_bound(first, all.end(), end);
  Queries made;
  made.positions.assign(first, last);
  if (first != last) {
    made.rows = upload(LayerDataset::query, {}, {first - all.begin(), last - all.begin()});
    made.device_positions = uploaded(*device, made.positions);
  }
  return queries_.emplace(std::pair{begin, end}, std::move(made)).first->second;
}

const CudaLayer::Queries& CudaLayer::queries(std::int64_t begin, std::int64_t end, const std::string& purpose) const {
  const Queries& found = recorded_queries(begin, end);
  if (begin >= 0 && static_cast<std::int64_t>(found.positions.size()) == end - begin) return found;
  std::int64_t missing = begin;
  while (trace->has_query(missing)) ++missing;
  throw trace->missing_query(missing, purpose);
}

bool CudaLayer::OutputProjection::on_tensor_cores() const {
  return !empty() && half_projection_supported(stored.type, stored.shape[2]);
}

HalfProjection CudaLayer::OutputProjection::half_projection() const {
  return {half.empty() ? stored.data() : half.data(), unit.data(), stored.shape[1], stored.shape[2]};
}

const CudaLayer::OutputProjection& CudaLayer::output_projection() const {
  const std::lock_guard lock(mutex_);
  return loaded_projection();
}

const CudaLayer::OutputProjection& CudaLayer::loaded_projection() const {
  if (projection_) return *projection_;
  auto made = std::make_unique<OutputProjection>();
  if (trace->has(layer, LayerDataset::output_projection)) made->stored = upload(LayerDataset::output_projection);
  if (made->on_tensor_cores() && made->stored.type == ElementType::bfloat16) {
    const std::int64_t hidden = made->stored.shape[1], inner = made->stored.shape[2];
    made->half = Buffer<std::byte>(*device, hidden * inner * 2);
    made->unit = Buffer<float>(*device, hidden);
    launch_half_projection(made->stored.data(), hidden, inner, made->half.data(), made->unit.data(), device->stream());
  }
  projection_ = std::move(made);
  return *projection_;
}

const CudaLayer::Factor& CudaLayer::projection_factor() const {
  const std::lock_guard lock(mutex_);
  if (factor_) return *factor_;
  const std::int64_t d = head_dim, heads = num_query_heads;
  auto made = std::make_unique<Factor>();
  std::vector<double> grams;
  if (trace->has(layer, LayerDataset::output_projection)) {
    if (hidden_size <= d) {
      const auto projection = trace->read(layer, LayerDataset::output_projection);
      std::vector<float> blocks(static_cast<std::size_t>(heads * hidden_size * d));
      for (std::int64_t h = 0; h < heads; ++h)
        for (std::int64_t c = 0; c < hidden_size; ++c)
          std::copy_n(&projection(0, c, h * d), d, blocks.data() + (h * hidden_size + c) * d);
      made->matrix = uploaded(*device, blocks);
      made->rows = hidden_size;
      factor_ = std::move(made);
      return *factor_;
    }
    const DeviceTensor& projection = loaded_projection().stored;
    Buffer<double> on_device(*device, heads * d * d);
    launch_gram(projection.data(), projection.type, hidden_size, heads, d, on_device.data(), device->stream());
    grams = on_device.download();
  } else {
    const auto gram = trace->read(layer, LayerDataset::output_gram);  // throws Error naming both when it is absent too
    grams.assign(gram.flat().begin(), gram.flat().end());
  }
  std::vector<float> factors(grams.size());
  std::vector<char> triangular(static_cast<std::size_t>(heads));
  parallel_for(heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t h = begin; h < end; ++h)
      triangular[static_cast<std::size_t>(h)] =
          square_factor(grams.data() + h * d * d, d, factors.data() + h * d * d) ? 1 : 0;
  });
  made->rows = d;
  made->triangular = std::all_of(triangular.begin(), triangular.end(), [](char t) { return t != 0; });
  made->matrix = uploaded(*device, factors);
  factor_ = std::move(made);
  return *factor_;
}

const CudaLayer::RoundedFactor& CudaLayer::rounded_factor(bool project) const {
  const std::int64_t d = head_dim, heads = num_query_heads;
  const Factor* factor = project ? &projection_factor() : nullptr;
  const std::lock_guard lock(mutex_);
  auto& kept = project ? rounded_ : rounded_identity_;
  if (kept) return *kept;
  auto made = std::make_unique<RoundedFactor>();
  made->matrix = Buffer<std::byte>(*device, heads * d * d * 2);
  made->unit = Buffer<float>(*device, heads);
  made->triangular = factor == nullptr || factor->triangular;
  if (factor != nullptr) {
    launch_round_factor(factor->matrix.data(), heads, static_cast<int>(d), made->matrix.data(), made->unit.data(),
                        device->stream());
  } else {
    std::vector<float> identity(static_cast<std::size_t>(heads * d * d), 0.0F);
    for (std::int64_t i = 0; i < heads * d; ++i) identity[static_cast<std::size_t>(i * d + i % d)] = 1;
    const Buffer<float> exact = uploaded(*device, identity);
    launch_round_factor(exact.data(), heads, static_cast<int>(d), made->matrix.data(), made->unit.data(), device->stream());
  }
  if (value.type == ElementType::bfloat16) {
    Buffer<unsigned> largest(*device, 1);
    largest.fill_bytes(0);
    launch_largest_magnitude(value.data(), value.type, num_kv_heads * tokens * d, largest.data(), device->stream());
    const float top = std::bit_cast<float>(largest.download().front());
    if (top > 0) made->value_scale = std::ldexp(1.0F, std::clamp(10 - std::ilogb(top), -120, 100));
  }
  kept = std::move(made);
  return *kept;
}

}  // namespace kvreplay::cuda
