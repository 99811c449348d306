// Attention of the last prompt queries, and sums of attention over all of them.
#include <algorithm>

#include "core/base/error.h"
#include "gpu/cuda_backend.h"
#include "gpu/kernels/column_sums.h"
#include "gpu/kernels/elements.cuh"
#include "gpu/kernels/log_sum_exp.h"
#include "gpu/kernels/product.h"
#include "gpu/kernels/window_rows.h"
#include "gpu/window.h"

namespace kvreplay::cuda {
namespace {

const std::byte* row_of(const DeviceTensor& tensor, std::int64_t row) {
  return tensor.bytes.data() + static_cast<std::size_t>(row * tensor.shape[2]) * element_size(tensor.type);
}

RowShape row_shape(const CudaLayer& layer, int window) {
  RowShape shape;
  shape.rows = static_cast<std::int64_t>(layer.num_query_heads) * window;
  shape.window = window;
  shape.first_query = layer.prompt - window;
  shape.low = layer.first_visible(std::max<std::int64_t>(0, shape.first_query));  // column 0 of the rows
  shape.columns = layer.prompt - shape.low;
  shape.sliding_window = layer.sliding_window;
  shape.cut = layer.first_candidate - shape.low;
  return shape;
}

const CudaLayer::Queries& window_queries(const CudaLayer& layer, int window) {
  return layer.queries(layer.prompt - window, layer.prompt,
                       "a policy that scores with the last " + std::to_string(window) + " prompt queries");
}

// Columns [cut, cut + n) of every row.
Buffer<float> last_columns(Device& device, const Buffer<float>& wide, std::int64_t rows, std::int64_t columns,
                           std::int64_t cut) {
  const std::int64_t n = columns - cut;
  Buffer<float> narrow(device, rows * n);
  const std::size_t width = static_cast<std::size_t>(n) * sizeof(float);
  check(cudaMemcpy2DAsync(narrow.data(), width, wide.data() + cut, static_cast<std::size_t>(columns) * sizeof(float), width,
                          static_cast<std::size_t>(rows), cudaMemcpyDeviceToDevice, device.stream()),
        "copying the candidates' weights");
  return narrow;
}

}  // namespace

WindowRows make_window_rows(const CudaLayer& layer, int window, bool with_output) {
  Device& device = *layer.device;
  const std::int64_t d = layer.head_dim, rows_each = static_cast<std::int64_t>(layer.group()) * window;
  const auto& query = window_queries(layer, window);
  const RowShape shape = row_shape(layer, window);
  WindowRows made;
  made.weight = Buffer<float>(device, shape.rows * shape.columns);
  made.dominant = Buffer<float>(device, shape.rows * 2);
  launch_product_nt({query.rows.data(), query.rows.type, d, rows_each * d, 1},
                    {row_of(layer.key, shape.low), layer.key.type, d, layer.tokens * d, 1}, layer.num_kv_heads, rows_each,
                    shape.columns, d, static_cast<float>(layer.attention_scale), static_cast<float>(layer.logit_softcap),
                    made.weight.data(), shape.columns, rows_each * shape.columns, device.stream());
  launch_softmax_rows(made.weight.data(), shape, made.dominant.data(), device.stream());
  if (with_output) {
    made.output = Buffer<float>(device, shape.rows * d);
    made.rest = Buffer<float>(device, shape.rows * d);
    const Buffer<double> partial(device, output_partial_count(shape.rows, shape.columns, static_cast<int>(d)));
    launch_row_outputs(made.weight.data(), shape, made.dominant.data(), row_of(layer.value, shape.low), layer.value.type,
                       layer.tokens * d, rows_each, static_cast<int>(d), partial.data(), made.output.data(),
                       made.rest.data(), device.stream());
  }
  if (shape.cut > 0) made.weight = last_columns(device, made.weight, shape.rows, shape.columns, shape.cut);
  return made;
}

bool WindowAttention::supported(const CudaLayer& layer, int window) {
  return layer.device->capability() >= 80 && fused_window_supported(layer.key.type, layer.head_dim, window) &&
         layer.trace->type(layer.layer, LayerDataset::query) == layer.key.type;
}

WindowAttention::WindowAttention(const CudaLayer& layer, int window)
    : layer_(layer.shared_from_this()),
      statistics_(*layer.device, 3 * static_cast<std::int64_t>(layer.num_query_heads) * window) {
  Device& device = *layer.device;
  fused_.query = window_queries(layer, window).rows.data();
  fused_.shape = row_shape(layer, window);
  fused_.key = row_of(layer.key, fused_.shape.low);
  fused_.type = layer.key.type;
  fused_.key_head_stride = layer.tokens * layer.head_dim;
  fused_.kv_heads = layer.num_kv_heads;
  fused_.group = layer.group();
  fused_.dim = layer.head_dim;
  fused_.scale = static_cast<float>(layer.attention_scale);
  fused_.cap = static_cast<float>(layer.logit_softcap);
  const Buffer<std::byte> scratch(device, statistics_scratch_bytes(fused_, device.multiprocessors()));
  launch_window_statistics(fused_, statistics(), scratch.data(), device.multiprocessors(), device.stream());
}

RowStatistics WindowAttention::statistics() const {
  const std::int64_t rows = fused_.shape.rows;
  return {statistics_.data(), statistics_.data() + rows, statistics_.data() + 2 * rows};
}

RowWeights narrowed(const std::vector<double>& weights) {
  RowWeights narrow;
  std::transform(weights.begin(), weights.end(), narrow.value, [](double weight) { return static_cast<float>(weight); });
  return narrow;
}

void WindowAttention::sum(const std::vector<double>& weights, float* mean, float* odds) const {
  launch_window_sums(fused_, statistics(), narrowed(weights), mean, odds, layer_->device->multiprocessors(),
                     layer_->device->stream());
}

bool WindowAttention::reduces_group(int group, Reduction how) const {
  return group == fused_.group && group <= 4 && how != Reduction::sum;
}

void WindowAttention::reduce_group(Reduction how, float* rows) const {
  launch_window_group_rows(fused_, statistics(), how == Reduction::max, rows, layer_->device->multiprocessors(),
                           layer_->device->stream());
}

Buffer<float> WindowAttention::take(Buffer<float> WindowRows::*which) {
  const std::lock_guard lock(mutex_);
  if (which == &WindowRows::weight) {
    Device& device = *layer_->device;
    Buffer<float> weight(device, fused_.shape.rows * layer_->candidates());
    if (launch_window_rows(fused_, statistics(), weight.data(), device.multiprocessors(), device.stream())) return weight;
  }
  if (!rows_) rows_ = std::make_unique<WindowRows>(make_window_rows(*layer_, window(), true));
  return std::move((*rows_).*which);
}

std::shared_ptr<WindowAttention> promised_window(const Array& weights) {
  const DeviceArray& array = device_array(weights);
  return array.promised() ? array.window : nullptr;
}

AttentionRows CudaBackend::window_attention(const LoadedLayer& base, int window, bool with_output) {
  device_.make_current();
  const CudaLayer& layer = cuda_layer(base);
  const std::int64_t heads = layer.num_query_heads, d = layer.head_dim, n = layer.candidates();
  std::shared_ptr<WindowAttention> promise;
  WindowRows made;
  if (WindowAttention::supported(layer, window))
    promise = std::make_shared<WindowAttention>(layer, window);
  else
    made = make_window_rows(layer, window, with_output);
  const auto array = [&](std::vector<std::int64_t> shape, Buffer<float> WindowRows::*which) {
    if (!promise) return make_array(std::move(shape), std::move(made.*which));
    auto storage = std::make_shared<DeviceArray>([promise, which] { return promise->take(which); });
    if (which == &WindowRows::weight) storage->window = promise;
    return Array(std::move(shape), std::move(storage));
  };
  AttentionRows result;
  result.weight = array({heads, window, n}, &WindowRows::weight);
  result.dominant = array({heads, window, 2}, &WindowRows::dominant);
  if (with_output) {
    result.output = array({heads, window, d}, &WindowRows::output);
    result.rest = array({heads, window, d}, &WindowRows::rest);
  }
  return result;
}

namespace {

AttentionShape prompt_shape(const CudaLayer& layer, std::int64_t query_stride, std::int64_t full_before) {
  AttentionShape shape;
  shape.query_heads = layer.num_query_heads;
  shape.kv_heads = layer.num_kv_heads;
  shape.head_dim = layer.head_dim;
  shape.queries = layer.prompt;
  shape.keys = layer.prompt;
  shape.query_stride = query_stride;
  shape.key_stride = layer.tokens;
  shape.scale = layer.attention_scale;
  shape.softcap = layer.logit_softcap;
  shape.sliding_window = layer.sliding_window;
  shape.full_before = full_before;
  return shape;
}

// The trace's own log-sum-exps of the prompt queries, [Hq, P]; empty when it has none.
Buffer<float> stored_log_sum_exp(const CudaLayer& layer) {
  if (!layer.trace->has(layer.layer, LayerDataset::log_sum_exp)) return {};
  const DeviceTensor stored = layer.upload(LayerDataset::log_sum_exp);  // [1, Hq, Tq]
  if (stored.type != ElementType::float32) return {};
  const std::int64_t recorded = stored.shape[2], prompt = layer.prompt;
  Buffer<float> narrow(*layer.device, layer.num_query_heads * prompt);
  const std::size_t width = static_cast<std::size_t>(prompt) * sizeof(float);
  check(cudaMemcpy2DAsync(narrow.data(), width, stored.data(), static_cast<std::size_t>(recorded) * sizeof(float), width,
                          static_cast<std::size_t>(layer.num_query_heads), cudaMemcpyDeviceToDevice, layer.device->stream()),
        "copying log-sum-exps");
  return narrow;
}

template <class Element>
void sum_columns(const CudaLayer& layer, const Element* query, const AttentionShape& shape, bool stored, float* sums) {
  Device& device = *layer.device;
  const auto* key = static_cast<const Element*>(layer.key.data());
  Buffer<float> normaliser;
  if (stored) normaliser = stored_log_sum_exp(layer);
  if (normaliser.empty()) {
    normaliser = Buffer<float>(device, shape.query_heads * shape.queries);
    log_sum_exp(query, key, shape, normaliser.data(), device.stream());
  }
  const Buffer<std::byte> scratch(device, static_cast<std::int64_t>(column_sums_scratch_bytes(shape)));
  column_sums(query, key, normaliser.data(), shape, layer.first_candidate, sums, scratch.data(), device.stream());
}

}  // namespace

Array CudaBackend::column_sums(const LoadedLayer& base, ColumnMask mask, int window) {
  device_.make_current();
  const CudaLayer& layer = cuda_layer(base);
  const std::int64_t heads = layer.num_query_heads, n = layer.candidates();
  const bool causal = mask == ColumnMask::causal;
  if (causal && layer.trace->has(layer.layer, LayerDataset::attention_column_sum)) {
    const auto stored = layer.trace->read(layer.layer, LayerDataset::attention_column_sum);
    std::vector<float> sums;
    for (std::int64_t h = 0; h < heads; ++h) {
      const float* row = stored.data() + h * layer.tokens + layer.first_candidate;
      sums.insert(sums.end(), row, row + n);
    }
    return upload({heads, n}, sums);
  }
  Buffer<float> sums(device_, heads * n);
  const auto& query = layer.queries(
      0, layer.prompt, "the attention that each token received from the whole prompt (no attention_column_sum either)");
  if (query.rows.type != layer.key.type)
    throw Error(layer.trace->path(),
                "stores queries and keys in different types, of which this backend forms no column sums",
                "use --backend cpu");
  const AttentionShape shape =
      prompt_shape(layer, layer.prompt, causal ? 0 : std::max<std::int64_t>(0, layer.prompt - window));
  with_elements(layer.key.type, query.rows.data(),
                [&](const auto* rows) { sum_columns(layer, rows, shape, causal, sums.data()); });
  return make_array({heads, n}, std::move(sums));
}

}  // namespace kvreplay::cuda
