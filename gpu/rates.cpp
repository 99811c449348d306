#include "gpu/rates.h"

#include <dlfcn.h>

#include <algorithm>
#include <functional>

#include "core/base/error.h"
#include "gpu/device.h"
#include "gpu/kernels/rates.h"

namespace kvreplay {
namespace cuda {
namespace {

// The best of several runs: a rate is what the device can do, not what it did while something else ran.
double best_seconds(const Device& device, int runs, const std::function<void()>& work) {
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "making an event");
  check(cudaEventCreate(&end), "making an event");
  double best = 1e30;
  for (int run = 0; run < runs; ++run) {
    check(cudaEventRecord(begin, device.stream()), "recording an event");
    work();
    check(cudaEventRecord(end, device.stream()), "recording an event");
    check(cudaEventSynchronize(end), "waiting for the device");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "reading the time");
    if (run > 0) best = std::min(best, milliseconds * 1e-3);  // the first one loads the code
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return best;
}

// The four functions of cuBLAS that a product needs, from the library that the machine has. Constants are those of cuBLAS's
// own documentation (cublasOperation_t, cublasComputeType_t, cublasGemmAlgo_t).
class CuBlas {
 public:
  CuBlas() {
    for (const char* name : {"libcublas.so.13", "libcublas.so.12", "libcublas.so"})
      if (library_ = dlopen(name, RTLD_NOW | RTLD_LOCAL); library_ != nullptr) break;
    if (library_ == nullptr) return;
    create_ = find<int (*)(void**)>("cublasCreate_v2");
    destroy_ = find<int (*)(void*)>("cublasDestroy_v2");
    set_stream_ = find<int (*)(void*, cudaStream_t)>("cublasSetStream_v2");
    gemm_ = find<Gemm>("cublasGemmEx");
    if (create_ == nullptr || set_stream_ == nullptr || gemm_ == nullptr || create_(&handle_) != 0) handle_ = nullptr;
  }
  // The library stays: what it registered with the driver must outlive the process's last call.
  ~CuBlas() {
    if (handle_ != nullptr && destroy_ != nullptr) destroy_(handle_);
  }
  CuBlas(const CuBlas&) = delete;
  CuBlas& operator=(const CuBlas&) = delete;

  bool there() const { return handle_ != nullptr; }
  // c [n, n] float16 = a · bᵀ with float32 sums. False when the library refuses.
  bool multiply(int n, const void* a, const void* b, void* c, cudaStream_t stream) const {
    constexpr int transposed = 1, as_it_is = 0, half = 2, compute_float32 = 68, default_algorithm = -1;
    const float one = 1, zero = 0;
    return set_stream_(handle_, stream) == 0 && gemm_(handle_, transposed, as_it_is, n, n, n, &one, a, half, n, b, half, n,
                                                      &zero, c, half, n, compute_float32, default_algorithm) == 0;
  }

 private:
  using Gemm = int (*)(void*, int, int, int, int, int, const void*, const void*, int, int, const void*, int, int,
                       const void*, void*, int, int, int, int);
  template <class Function>
  Function find(const char* name) const {
    return reinterpret_cast<Function>(dlsym(library_, name));
  }
  void* library_ = nullptr;
  void* handle_ = nullptr;
  int (*create_)(void**) = nullptr;
  int (*destroy_)(void*) = nullptr;
  int (*set_stream_)(void*, cudaStream_t) = nullptr;
  Gemm gemm_ = nullptr;
};

std::int64_t bytes_to_read(const Device& device) {
  std::size_t free = 0, total = 0;
  device.make_current();
  check(cudaMemGetInfo(&free, &total), "asking for free memory");
  return std::min<std::int64_t>(std::int64_t{2} << 30, static_cast<std::int64_t>(free / 4)) & ~std::int64_t{0xffff};
}

void measure_memory(Device& device, DeviceRates& rates) {
  const std::int64_t bytes = bytes_to_read(device);
  Buffer<float> from(device, bytes / 4), to(device, bytes / 4), sum(device, 1);
  from.fill_bytes(0x3c);
  rates.read = static_cast<double>(bytes) / best_seconds(device, 10, [&] {
                 launch_read(from.data(), from.size(), device.multiprocessors(), sum.data(), device.stream());
               });
  rates.copy = 2.0 * static_cast<double>(bytes) / best_seconds(device, 10, [&] {
                 check(cudaMemcpyAsync(to.data(), from.data(), from.bytes(), cudaMemcpyDeviceToDevice, device.stream()),
                       "copying on the device");
               });
  const std::size_t pinned_bytes = std::min<std::size_t>(from.bytes(), std::size_t{256} << 20);
  void* pinned = nullptr;
  check(cudaMallocHost(&pinned, pinned_bytes), "pinning host memory");
  rates.from_host = static_cast<double>(pinned_bytes) / best_seconds(device, 6, [&] {
                      check(cudaMemcpyAsync(to.data(), pinned, pinned_bytes, cudaMemcpyHostToDevice, device.stream()),
                            "copying to the device");
                    });
  cudaFreeHost(pinned);
}

void measure_products(Device& device, DeviceRates& rates) {
  Buffer<float> sum(device, 4 * device.multiprocessors());
  double operations = 0;
  const double seconds = best_seconds(device, 8, [&] {
    operations = launch_products(device.multiprocessors(), device.capability(), sum.data(), device.stream());
  });
  rates.float16 = operations / seconds;
  rates.float16_by = "products alone";
  const CuBlas blas;
  if (!blas.there()) return;
  constexpr int n = 8192;
  constexpr std::int64_t elements = std::int64_t{n} * n;
  Buffer<std::uint16_t> a(device, elements), b(device, elements), c(device, elements);
  a.fill_bytes(0x2c);  // 0.066: ordinary numbers
  b.fill_bytes(0x33);
  bool worked = true;
  const double blas_seconds =
      best_seconds(device, 8, [&] { worked &= blas.multiply(n, a.data(), b.data(), c.data(), device.stream()); });
  const double rate = 2.0 * n * elements / blas_seconds;
  if (!worked || rate <= rates.float16) return;
  rates.float16 = rate;
  rates.float16_by = "cuBLAS, 8192 x 8192 x 8192";
}

}  // namespace
}  // namespace cuda

DeviceRates measure_device_rates(int index) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || index < 0 || index >= count)
    throw Error("cuda:" + std::to_string(index), "is not there", "`kvreplay info` lists the devices");
  cuda::Device device(index);
  DeviceRates rates;
  cuda::measure_memory(device, rates);
  cuda::measure_products(device, rates);
  // What was measured with goes back to the device, which keeps freed memory otherwise.
  device.synchronize();
  cudaMemPool_t pool = nullptr;
  cuda::check(cudaDeviceGetDefaultMemPool(&pool, index), "asking for the memory pool");
  cuda::check(cudaMemPoolTrimTo(pool, 0), "giving memory back");
  return rates;
}

}  // namespace kvreplay
