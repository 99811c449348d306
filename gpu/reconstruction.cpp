// The reconstruction error of removing one token: odds · ‖W_h (o - v)‖ (An et al., ReST-KV, ICLR 2026).
#include "gpu/reconstruction.h"

#include <algorithm>

#include "gpu/cuda_backend.h"
#include "gpu/kernels/product.h"
#include "gpu/kernels/removal_error.h"
#include "gpu/kernels/removal_fused.h"
#include "gpu/kernels/smoothing.h"
#include "gpu/kernels/window_rows.h"
#include "gpu/window.h"

namespace kvreplay::cuda {
namespace {

// R_h of every head: the layer's factor, or the identity where values are taken as they are.
struct Projection {
  Buffer<float> identity;
  const float* matrix = nullptr;  // [Hq, r, d], or [d, d] for all
  std::int64_t rows = 0;
  std::int64_t head_stride = 0;
};

Projection projection_of(const CudaLayer& layer, bool project) {
  Projection p;
  const std::int64_t d = layer.head_dim;
  if (project) {
    const auto& factor = layer.projection_factor();
    p.matrix = factor.matrix.data();
    p.rows = factor.rows;
    p.head_stride = factor.rows * d;
    return p;
  }
  std::vector<float> one(static_cast<std::size_t>(d * d), 0.0F);
  for (std::int64_t i = 0; i < d; ++i) one[static_cast<std::size_t>(i * d + i)] = 1;
  p.identity = uploaded(*layer.device, one);
  layer.device->synchronize();
  p.matrix = p.identity.data();
  p.rows = d;
  return p;
}

const std::byte* candidate_values(const CudaLayer& layer, std::int64_t kv_head) {
  const std::int64_t row = kv_head * layer.tokens + layer.first_candidate;
  return layer.value.bytes.data() + static_cast<std::size_t>(row * layer.head_dim) * element_size(layer.value.type);
}

// points [r, n] = R_h · v of every candidate.
void project_values(const CudaLayer& layer, const Projection& p, std::int64_t head, float* points) {
  const std::int64_t d = layer.head_dim, n = layer.candidates();
  launch_product_nt({p.matrix + head * p.head_stride, ElementType::float32, d, 0, 1},
                    {candidate_values(layer, head / layer.group()), layer.value.type, d, 0, 1}, 1, p.rows, n, d, 1, 0,
                    points, n, 0, layer.device->stream());
}

// centers [Hq, count, r] = R_h · output [Hq, count, d].
Buffer<float> project_outputs(const CudaLayer& layer, const Projection& p, const float* output, std::int64_t count) {
  const std::int64_t d = layer.head_dim, heads = layer.num_query_heads;
  Buffer<float> centers(*layer.device, heads * count * p.rows);
  launch_product_nt({output, ElementType::float32, d, count * d, 1}, {p.matrix, ElementType::float32, d, p.head_stride, 1},
                    heads, count, p.rows, d, 1, 0, centers.data(), p.rows, count * p.rows, layer.device->stream());
  return centers;
}

RemovalShape shape_of(const CudaLayer& layer, const AttentionRows& rows, const Projection& p) {
  return {static_cast<int>(rows.weight.dim(1)), rows.weight.dim(2), layer.head_dim, static_cast<int>(p.rows)};
}

// Whether attention that was averaged first can stay on the tensor cores from keys to errors.
bool fuses(const CudaLayer& layer, const WindowAttention& window, const ReconstructionForm& form) {
  const bool square = !form.project || layer.projection_factor().rows == layer.head_dim;
  return square && fused_removal_supported(layer.value.type, layer.head_dim) &&
         (form.prefix_output || window.sees_candidates_alone());
}

FusedRemoval fused_removal(const CudaLayer& layer, bool project) {
  const auto& factor = layer.rounded_factor(project);
  FusedRemoval removal;
  removal.value = candidate_values(layer, 0);
  removal.type = layer.value.type;
  removal.head_stride = layer.tokens * layer.head_dim;
  removal.kv_heads = layer.num_kv_heads;
  removal.group = layer.group();
  removal.dim = layer.head_dim;
  removal.columns = layer.candidates();
  removal.factor = factor.matrix.data();
  removal.factor_unit = factor.unit.data();
  removal.triangular = factor.triangular;
  removal.value_scale = factor.value_scale;
  return removal;
}

Array fused_error_of_mean(const WindowAttention& window, const std::vector<double>& weights,
                          const ReconstructionForm& form) {
  const CudaLayer& layer = window.layer();
  Device& device = *layer.device;
  const std::int64_t heads = layer.num_query_heads, n = layer.candidates(), d = layer.head_dim;
  Buffer<float> mean(device, heads * n), odds(device, heads * n);
  window.sum(weights, mean.data(), odds.data());
  const FusedRemoval removal = fused_removal(layer, form.project);
  const std::int64_t columns = form.prefix_output ? n - window.window() : n;
  const Buffer<float> partial(device, mean_output_partial_count(removal, columns));
  const Buffer<float> output(device, heads * d), center(device, heads * d);
  launch_mean_center(removal, mean.data(), n, columns, partial.data(), output.data(), center.data(), device.stream());
  Buffer<float> error(device, heads * n);
  launch_fused_removal_error(removal, center.data(), odds.data(), form.project ? static_cast<float>(form.tau) : 1.0F,
                             error.data(), device.multiprocessors(), device.stream());
  return make_array({heads, n}, std::move(error));
}

WindowRemoval window_removal(const WindowAttention& window, const ReconstructionForm& form) {
  return {window.fused(), fused_removal(window.layer(), form.project), window.statistics(), form.normalize};
}

Array promise_of(const std::shared_ptr<RemovalErrors>& errors) {
  const CudaLayer& layer = errors->window().layer();
  auto storage = std::make_shared<DeviceArray>([errors] { return errors->rows(); });
  storage->errors = errors;
  return {{layer.num_query_heads, errors->window().window(), layer.candidates()}, std::move(storage)};
}

}  // namespace

bool RemovalErrors::supported(const WindowAttention& window, const ReconstructionForm& form) {
  const CudaLayer& layer = window.layer();
  if (!fused_removal_supported(layer.value.type, layer.head_dim)) return false;
  if (form.project && layer.projection_factor().rows != layer.head_dim) return false;
  return window_removal_supported(window_removal(window, form));
}

RemovalErrors::RemovalErrors(std::shared_ptr<WindowAttention> window, const ReconstructionForm& form)
    : window_(std::move(window)), removal_(window_removal(*window_, form)) {
  const CudaLayer& layer = window_->layer();
  Device& device = *layer.device;
  const std::int64_t heads = layer.num_query_heads, d = layer.head_dim, w = window_->window();
  row_ = Buffer<PreparedRemoval::Row>(device, heads * PreparedRemoval::slot_rows);
  direction_ = Buffer<std::byte>(device, heads * 2 * PreparedRemoval::slot_rows * d * 2);
  point_ = Buffer<float>(device, heads * w * d);
  center_ = Buffer<float>(device, heads * d);
  distance_ = Buffer<float>(device, heads * layer.candidates());
  const Buffer<float> output(device, heads * w * d), others(device, heads * w * d);
  const Buffer<std::int32_t> column(device, heads * w);
  const Buffer<std::byte> scratch(device, prepare_removal_scratch_bytes(removal_, device.multiprocessors()));
  const WindowOutputs outputs{output.data(), others.data(), column.data()};
  launch_prepare_removal(removal_, outputs, prepared(), scratch.data(), device.multiprocessors(), device.stream());
}

PreparedRemoval RemovalErrors::prepared() const {
  return {row_.data(), direction_.data(), point_.data(), center_.data(), distance_.data()};
}

void RemovalErrors::launch(const RowWeights& weights, RemovalSums form, float* out) const {
  Device& device = *window_->layer().device;
  const Buffer<std::byte> scratch(device, window_removal_scratch_bytes(removal_));
  launch_window_removal(removal_, prepared(), weights, form, out, scratch.data(), device.multiprocessors(), device.stream());
}

Buffer<float> RemovalErrors::rows() const {
  RowWeights ones;
  std::fill(std::begin(ones.value), std::end(ones.value), 1.0F);
  const CudaLayer& layer = window_->layer();
  Buffer<float> errors(*layer.device, layer.num_query_heads * window_->window() * layer.candidates());
  launch(ones, RemovalSums::rows, errors.data());
  return errors;
}

bool RemovalErrors::averages_group(int group, Reduction how) const {
  return group == window_->layer().group() && how == Reduction::mean;
}

bool RemovalErrors::sums_with(const std::vector<double>& weights) {
  return std::all_of(weights.begin(), weights.end(), [](double weight) { return weight >= 0; });
}

void RemovalErrors::sum(const std::vector<double>& weights, bool over_group, float* out) const {
  launch(narrowed(weights), over_group ? RemovalSums::group : RemovalSums::heads, out);
}

std::shared_ptr<RemovalErrors> promised_errors(const Array& errors) {
  const DeviceArray& array = device_array(errors);
  return array.promised() ? array.errors : nullptr;
}

Array promised_group_errors(const Array& errors, const std::shared_ptr<RemovalErrors>& promise) {
  const CudaLayer& layer = promise->window().layer();
  const std::int64_t heads = layer.num_kv_heads, rest = errors.dim(1) * errors.dim(2);
  auto storage = std::make_shared<DeviceArray>([errors, promise, heads, rest] {
    const CudaLayer& own = promise->window().layer();
    Buffer<float> mean(*own.device, heads * rest);
    launch_reduce_group(device_data(errors), heads, rest, own.group(), Reduction::mean, mean.data(), own.device->stream());
    return mean;
  });
  storage->errors = promise;
  storage->of_group = true;
  return {{heads, errors.dim(1), errors.dim(2)}, std::move(storage)};
}

Array CudaBackend::removal_error_rows(const LoadedLayer& base, const AttentionRows& rows, const ReconstructionForm& form) {
  device_.make_current();
  const CudaLayer& layer = cuda_layer(base);
  if (const auto window = device_array(rows.weight).window; window && RemovalErrors::supported(*window, form))
    return promise_of(std::make_shared<RemovalErrors>(window, form));
  const Projection p = projection_of(layer, form.project);
  const RemovalShape shape = shape_of(layer, rows, p);
  const std::int64_t heads = layer.num_query_heads, w = shape.window, n = shape.columns;
  Buffer<float> error(device_, heads * w * n), points(device_, p.rows * n);
  const Buffer<float> centers = project_outputs(layer, p, device_data(rows.output), w);
  for (std::int64_t h = 0; h < heads; ++h) {
    project_values(layer, p, h, points.data());
    launch_removal_errors(points.data(), centers.data() + h * w * p.rows, device_data(rows.weight) + h * w * n, shape,
                          form.normalize, error.data() + h * w * n, device_.stream());
  }
  launch_dominant_errors(device_data(rows.weight), device_data(rows.dominant), device_data(rows.rest),
                         candidate_values(layer, 0), layer.value.type, layer.tokens * layer.head_dim, layer.group(),
                         form.project ? p.matrix : nullptr, centers.data(), shape, heads, form.normalize, error.data(),
                         device_.stream());
  return make_array({heads, w, n}, std::move(error));
}

Array CudaBackend::removal_error_of_mean(const LoadedLayer& base, const AttentionRows& rows,
                                         const std::vector<double>& weights, const ReconstructionForm& form) {
  device_.make_current();
  const CudaLayer& layer = cuda_layer(base);
  if (const auto window = promised_window(rows.weight); window && fuses(layer, *window, form))
    return fused_error_of_mean(*window, weights, form);
  const Projection p = projection_of(layer, form.project);
  const RemovalShape shape = shape_of(layer, rows, p);
  const std::int64_t heads = layer.num_query_heads, w = shape.window, n = shape.columns, d = layer.head_dim;
  const Array mean = reduce_rows(rows.weight, weights);
  const Buffer<float> factors = device_weights(weights);
  Buffer<float> center(device_, heads * d);
  if (form.prefix_output) {
    launch_mean_output(device_data(mean), n, candidate_values(layer, 0), layer.value.type, layer.tokens * d, layer.group(),
                       heads, n - w, static_cast<int>(d), center.data(), device_.stream());
  } else {
    launch_weighted_outputs(device_data(rows.output), heads, static_cast<int>(w), static_cast<int>(d), factors.data(),
                            center.data(), device_.stream());
  }
  const Buffer<float> projected = project_outputs(layer, p, center.data(), 1);
  Buffer<float> error(device_, heads * n), points(device_, p.rows * n);
  for (std::int64_t h = 0; h < heads; ++h) {
    project_values(layer, p, h, points.data());
    launch_removal_error_of_mean(points.data(), projected.data() + h * p.rows, device_data(mean) + h * n,
                                 device_data(rows.weight) + h * w * n, device_data(rows.dominant) + h * w * 2,
                                 factors.data(), shape, form.project ? static_cast<float>(form.tau) : 1.0F,
                                 error.data() + h * n, device_.stream());
  }
  return make_array({heads, n}, std::move(error));
}

}  // namespace kvreplay::cuda
