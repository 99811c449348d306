#include "gpu/cuda_backend.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>

#include "core/backend/describe_layer.h"
#include "core/backend/registry.h"
#include "core/base/error.h"
#include "gpu/architectures.h"
#include "gpu/cuda.h"
#include "gpu/evaluate.h"
#include "gpu/kernels/selection.h"
#include "gpu/kernels/smoothing.h"
#include "gpu/kernels/window_rows.h"
#include "gpu/reconstruction.h"
#include "gpu/window.h"

namespace kvreplay {
namespace cuda {

std::shared_ptr<LoadedLayer> CudaBackend::load(const Trace& trace, int layer) {
  device_.make_current();
  auto loaded = std::make_shared<CudaLayer>();
  describe_layer(*loaded, trace, layer);
  loaded->device = &device_;
  loaded->loader = &loader_;
  loaded->type = trace.type(layer, LayerDataset::key);
  loaded->key = loaded->upload(LayerDataset::key);
  loaded->value = loaded->upload(LayerDataset::value);
  return loaded;
}

namespace {

std::string gigabytes(double bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f GB", bytes / 1e9);
  return text;
}

// What backends plan to take of each device, so that those of one device do not count the same memory.
class PlannedMemory {
 public:
  double of_others(int device, const CudaBackend* self) {
    const std::lock_guard lock(mutex_);
    double bytes = 0;
    for (const auto& [backend, planned] : bytes_[device])
      if (backend != self) bytes += planned;
    return bytes;
  }
  void set(int device, const CudaBackend* self, double bytes) {
    const std::lock_guard lock(mutex_);
    if (bytes > 0)
      bytes_[device][self] = bytes;
    else
      bytes_[device].erase(self);
  }

 private:
  std::mutex mutex_;
  std::map<int, std::map<const CudaBackend*, double>> bytes_;
};

// Never destroyed: backends that live until the program ends may go later.
PlannedMemory& planned_memory() {
  static auto* planned = new PlannedMemory;
  return *planned;
}

// Free memory of the current device and what this process's pool holds of it.
double room_of(int device, std::size_t& total) {
  std::size_t free = 0;
  check(cudaMemGetInfo(&free, &total), "asking for the device's free memory");
  cudaMemPool_t pool = nullptr;
  std::uint64_t held = 0;
  if (cudaDeviceGetDefaultMemPool(&pool, device) != cudaSuccess ||
      cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &held) != cudaSuccess) {
    cudaGetLastError();
    held = 0;
  }
  return static_cast<double>(free) + static_cast<double>(held);
}

}  // namespace

CudaBackend::~CudaBackend() { planned_memory().set(device_.index(), this, 0); }

BackendPlan CudaBackend::plan(const Trace& trace, std::size_t, const EvaluationRequest&) const {
  // What scoring and evaluation take beside the layer: scores that settings share, and blocks and batches of evaluate.cpp or
  // window rows of float32.
  constexpr std::int64_t shared = std::int64_t{5} << 29;
  constexpr double scratch = 2.0 * (1LL << 30) + shared, spare = 0.3 * (1LL << 30);
  double layer = 0;
  for (const int l : trace.layers()) layer = std::max(layer, static_cast<double>(trace.layer_bytes(l)));
  device_.make_current();
  std::size_t total = 0;
  const double all = room_of(device_.index(), total) - spare;
  const double room = all - planned_memory().of_others(device_.index(), this);
  if (layer + scratch > room) {
    planned_memory().set(device_.index(), this, 0);
    throw Error(trace.path(),
                "has layers of " + gigabytes(layer) + ", which with " + gigabytes(scratch) +
                    " to work in do not fit into the " + gigabytes(std::max(0.0, room)) + " that are free on " +
                    device_.name(),
                "close what else uses the device, or use --backend cpu");
  }
  BackendPlan plan;
  plan.loads_ahead = 2 * layer + scratch <= room;
  plan.runs_at_once = 1024;
  plan.shared_bytes = shared;
  plan.memory = std::string(plan.loads_ahead ? "2 layers" : "1 layer") + " of " + gigabytes(layer) + " and up to " +
                gigabytes(scratch) + " to work in, of " + gigabytes(static_cast<double>(total)) +
                " on cuda:" + std::to_string(device_.index()) + ", " + device_.name();
  planned_memory().set(device_.index(), this, (plan.loads_ahead ? 2 : 1) * layer + scratch);
  return plan;
}

std::vector<float> CudaBackend::download(const Array& array) {
  device_.make_current();
  device_data(array);
  return device_array(array).values.download();
}

Array CudaBackend::upload(const std::vector<std::int64_t>& shape, const std::vector<float>& values) {
  device_.make_current();
  return make_array(shape, uploaded(device_, values));
}

Buffer<float> CudaBackend::device_weights(const std::vector<double>& weights) {
  const std::vector<float> narrow(weights.begin(), weights.end());
  return uploaded(device_, narrow);
}

Tensor<float, 2> CudaBackend::decode_logits(const LoadedLayer& layer, int query_head) {
  device_.make_current();
  return cuda::decode_logits(cuda_layer(layer), query_head);
}

Array CudaBackend::decode_attention_sum(const LoadedLayer& layer) {
  device_.make_current();
  return make_array({layer.num_query_heads, layer.candidates()}, cuda::decode_attention_sum(cuda_layer(layer)));
}

Array CudaBackend::reduce_rows(const Array& rows, const std::vector<double>& weights) {
  device_.make_current();
  const std::int64_t heads = rows.dim(0), n = rows.dim(2);
  Buffer<float> out(device_, heads * n);
  if (const auto window = promised_window(rows)) {
    window->sum(weights, out.data(), nullptr);
  } else if (const auto errors = promised_errors(rows); errors && RemovalErrors::sums_with(weights)) {
    errors->sum(weights, device_array(rows).of_group, out.data());
  } else {
    const Buffer<float> factors = device_weights(weights);
    launch_reduce_rows(device_data(rows), heads, static_cast<int>(rows.dim(1)), n, factors.data(), out.data(),
                       device_.stream());
  }
  return make_array({heads, n}, std::move(out));
}

Array CudaBackend::reduce_group(const Array& scores, int group, Reduction how) {
  if (group == 1) return scores;
  device_.make_current();
  std::vector<std::int64_t> shape = scores.shape();
  shape[0] /= group;
  if (const auto errors = promised_errors(scores);
      errors && !device_array(scores).of_group && errors->averages_group(group, how))
    return promised_group_errors(scores, errors);
  const std::int64_t count = element_count(shape);
  Buffer<float> out(device_, count);
  if (const auto window = promised_window(scores); window && window->reduces_group(group, how)) {
    window->reduce_group(how, out.data());
  } else {
    launch_reduce_group(device_data(scores), shape[0], shape[0] > 0 ? count / shape[0] : 0, group, how, out.data(),
                        device_.stream());
  }
  return make_array(shape, std::move(out));
}

namespace {

Array norms_of(const CudaLayer& layer, const DeviceTensor& rows) {
  const std::int64_t n = layer.candidates(), d = layer.head_dim;
  Buffer<float> out(*layer.device, layer.num_kv_heads * n);
  const auto* first = static_cast<const std::byte*>(rows.data()) +
                      static_cast<std::size_t>(layer.first_candidate * d) * element_size(rows.type);
  launch_norms(first, rows.type, layer.tokens * d, layer.num_kv_heads, n, static_cast<int>(d), out.data(),
               layer.device->stream());
  return make_array({layer.num_kv_heads, n}, std::move(out));
}

}  // namespace

Array CudaBackend::key_norms(const LoadedLayer& layer) {
  device_.make_current();
  return norms_of(cuda_layer(layer), cuda_layer(layer).key);
}

Array CudaBackend::value_norms(const LoadedLayer& layer) {
  device_.make_current();
  return norms_of(cuda_layer(layer), cuda_layer(layer).value);
}

Array CudaBackend::multiply(const Array& scores, const Array& factors, double factor) {
  device_.make_current();
  const std::int64_t heads = scores.dim(0), n = scores.dim(1);
  Buffer<float> out(device_, heads * n);
  launch_multiply(device_data(scores), device_data(factors), heads, n, heads / factors.dim(0), factor, out.data(),
                  device_.stream());
  return make_array({heads, n}, std::move(out));
}

Array CudaBackend::prefix(const Array& scores, std::int64_t columns) {
  if (columns == scores.dim(1)) return scores;
  const std::int64_t heads = scores.dim(0), n = scores.dim(1);
  auto storage = std::make_shared<DeviceArray>([this, scores, heads, n, columns] {
    device_.make_current();
    Buffer<float> out(device_, heads * columns);
    const auto width = static_cast<std::size_t>(columns) * sizeof(float);
    if (!out.empty())
      check(cudaMemcpy2DAsync(out.data(), width, device_data(scores), static_cast<std::size_t>(n) * sizeof(float), width,
                              static_cast<std::size_t>(heads), cudaMemcpyDeviceToDevice, device_.stream()),
            "copying the first columns of scores");
    return out;
  });
  storage->prefix_of = scores;
  return {{heads, columns}, std::move(storage)};
}

Array CudaBackend::average_pool(const Array& scores, const std::vector<int>& kernel, const std::vector<int>& shift,
                                Padding padding) {
  device_.make_current();
  const std::int64_t heads = scores.dim(0), m = scores.dim(1);
  const DeviceRows rows = device_rows(scores);
  Buffer<float> out(device_, heads * m);
  for (std::int64_t first = 0; first < heads; first += max_pool_heads) {
    const std::int64_t count = std::min<std::int64_t>(max_pool_heads, heads - first);
    PoolWindows windows{};
    std::copy_n(kernel.begin() + first, count, windows.kernel);
    std::copy_n(shift.begin() + first, count, windows.shift);
    launch_average_pool(rows.data + first * rows.stride, count, m, windows, padding, out.data() + first * m,
                        device_.stream(), rows.stride);
  }
  return make_array({heads, m}, std::move(out));
}

Array CudaBackend::max_pool(const Array& scores, int kernel) {
  device_.make_current();
  const std::int64_t heads = scores.dim(0), m = scores.dim(1);
  const DeviceRows rows = device_rows(scores);
  Buffer<float> out(device_, heads * m);
  launch_max_pool(rows.data, heads, m, kernel, out.data(), device_.stream(), rows.stride);
  return make_array({heads, m}, std::move(out));
}

std::vector<std::vector<double>> CudaBackend::mean_top_column(const Array& rows, std::int64_t count, Ties ties) {
  device_.make_current();
  const std::int64_t heads = rows.dim(0), w = rows.dim(1), n = rows.dim(2);
  std::vector<std::vector<double>> mean(static_cast<std::size_t>(heads),
                                        std::vector<double>(static_cast<std::size_t>(w), 0.0));
  count = std::min(count, n);
  if (count <= 0) return mean;
  Buffer<double> means(device_, heads * w);
  launch_mean_top_column(device_data(rows), heads * w, n, count, ties == Ties::highest, means.data(), device_.stream());
  const std::vector<double> flat = means.download();
  for (std::size_t h = 0; h < mean.size(); ++h)
    std::copy_n(flat.begin() + static_cast<std::ptrdiff_t>(h) * w, w, mean[h].begin());
  return mean;
}

std::vector<std::vector<std::int32_t>> CudaBackend::select_top(const Array& scores, const std::vector<std::int64_t>& count) {
  device_.make_current();
  const std::int64_t heads = scores.dim(0), m = scores.dim(1);
  std::vector<std::int64_t> wanted;
  std::int64_t capacity = 0;
  for (std::int64_t h = 0; h < heads; ++h) {
    wanted.push_back(std::clamp<std::int64_t>(count[static_cast<std::size_t>(h)], 0, m));
    capacity = std::max(capacity, wanted.back());
  }
  std::vector<std::vector<std::int32_t>> kept(static_cast<std::size_t>(heads));
  if (capacity == 0) return kept;
  const Buffer<std::int64_t> counts = uploaded(device_, wanted);
  Buffer<std::int32_t> columns(device_, heads * capacity);
  const DeviceRows rows = device_rows(scores);
  launch_select_top(rows.data, heads, m, counts.data(), capacity, columns.data(), device_.stream(), rows.stride);
  const std::vector<std::int32_t> flat = columns.download();
  for (std::int64_t h = 0; h < heads; ++h) {
    const auto first = flat.begin() + h * capacity;
    kept[static_cast<std::size_t>(h)].assign(first, first + wanted[static_cast<std::size_t>(h)]);
  }
  return kept;
}

void CudaBackend::evaluate(const LoadedLayer& layer, const std::vector<RunEvictions>& runs, const EvaluationRequest& request,
                           EvaluationSink& sink) {
  device_.make_current();
  if (layer.steps() == 0 || runs.empty()) return;
  cuda::evaluate(cuda_layer(layer), runs, request, sink);
}

}  // namespace cuda

namespace {

std::string version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

// Backends of a device with so much memory: each holds two layers and works in up to 4.5 GiB.
int backends_of(std::size_t memory) {
  const std::size_t gibibytes = memory >> 30;
  return gibibytes >= 60 ? 3 : gibibytes >= 36 ? 2 : 1;
}

// Empty where this build's code runs on a device of that compute capability.
std::string without_code(int major, int minor) {
  if (cuda::has_code_for(KVREPLAY_CUDA_ARCHITECTURES, major, minor)) return {};
  return "this build has no code for compute capability " + std::to_string(major) + "." + std::to_string(minor) +
         " (it has " + KVREPLAY_CUDA_ARCHITECTURES + ")";
}

std::vector<BackendDevice> visible_devices(std::string& why) {
  int count = 0, driver = 0;
  cudaDriverGetVersion(&driver);
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    cudaGetLastError();
    why = driver == 0 ? "this machine has no NVIDIA driver"
                      : cudaGetErrorString(status == cudaSuccess ? cudaErrorNoDevice : status);
    return {};
  }
  std::vector<BackendDevice> devices;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    cuda::check(cudaGetDeviceProperties(&properties, i), "asking for the devices' properties");
    devices.push_back({properties.name, static_cast<std::int64_t>(properties.totalGlobalMem),
                       "compute capability " + std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                           ", driver for CUDA " + version_text(driver),
                       backends_of(properties.totalGlobalMem), without_code(properties.major, properties.minor)});
  }
  return devices;
}

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(int device) {
  std::string why;
  const auto devices = visible_devices(why);
  if (device < 0 || static_cast<std::size_t>(device) >= devices.size())
    throw Error("cuda:" + std::to_string(device), devices.empty() ? why : "is not there",
                "`kvreplay info` lists the devices");
  if (const std::string& unusable = devices[static_cast<std::size_t>(device)].unusable; !unusable.empty())
    throw Error("cuda:" + std::to_string(device), unusable, "use cpu, or a build for that device");
  return std::make_unique<cuda::CudaBackend>(device);
}

DeviceMemory device_memory_of(Backend& backend) {
  cuda::Device& device = static_cast<cuda::CudaBackend&>(backend).device();
  return {device.bytes(), device.restart_peak(), device.index()};
}

void register_cuda_backend() { register_backend({"cuda", visible_devices, make_cuda_backend}); }

}  // namespace kvreplay
