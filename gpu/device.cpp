#include "gpu/device.h"

#include <cstring>

#include "core/base/error.h"
#include "gpu/guard.h"

namespace kvreplay::cuda {
namespace {

std::string megabytes(std::size_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // else the next call reports it again
  int device = 0;
  cudaGetDevice(&device);
  const std::string where = "cuda:" + std::to_string(device);
  if (status == cudaErrorMemoryAllocation) {
    std::size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    throw Error(
        where,
        std::string("has no memory left for ") + what + ": " + megabytes(free) + " of " + megabytes(total) + " are free",
        "close what else uses the device, or use --backend cpu");
  }
  throw Error(where, std::string(what) + " failed: " + cudaGetErrorString(status));
}

void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

Device::Device(int index) : index_(index) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index), "asking for the device's properties");
  name_ = properties.name;
  multiprocessors_ = properties.multiProcessorCount;
  capability_ = properties.major * 10 + properties.minor;
  shared_memory_ = properties.sharedMemPerBlockOptin;
  memory_ = properties.totalGlobalMem;
  make_current();
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  check(cudaStreamCreateWithFlags(&loading_stream_, cudaStreamNonBlocking), "making a stream");
  // Memory that was freed stays with the process: layers of a trace want the same sizes again and again.
  cudaMemPool_t pool = nullptr;
  check(cudaDeviceGetDefaultMemPool(&pool, index), "asking for the memory pool");
  std::uint64_t keep = ~std::uint64_t{0};
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "setting up the memory pool");
}

Device::~Device() {
  cudaSetDevice(index_);
  cudaStreamSynchronize(stream_);
  cudaStreamSynchronize(loading_stream_);
  cudaStreamDestroy(stream_);
  cudaStreamDestroy(loading_stream_);
  cudaFreeHost(small_);
}

void Device::make_current() const { check(cudaSetDevice(index_), "choosing the device"); }

void Device::download(void* host, const void* device, std::size_t bytes) {
  const std::lock_guard lock(small_mutex_);
  if (small_ == nullptr) check(cudaMallocHost(&small_, small_bytes), "pinned memory for results");
  void* target = bytes <= small_bytes ? small_ : host;
  check(cudaMemcpyAsync(target, device, bytes, cudaMemcpyDeviceToHost, stream_), "copying from the device");
  synchronize();
  if (target != host) std::memcpy(host, target, bytes);
}

void Device::synchronize() const { check(cudaStreamSynchronize(stream_), "waiting for the device"); }

void* Device::allocate(std::size_t bytes, cudaStream_t stream) {
  make_current();
  void* memory = nullptr;
  check(cudaMallocAsync(&memory, bytes + 2 * guard_padding(), stream), (megabytes(bytes) + " of device memory").c_str());
  const std::int64_t now = bytes_ += static_cast<std::int64_t>(bytes);
  std::int64_t peak = peak_bytes_;
  while (now > peak && !peak_bytes_.compare_exchange_weak(peak, now)) {
  }
  return with_guards(memory, bytes, stream);
}

void Device::release(void* memory, std::size_t bytes) noexcept {
  cudaSetDevice(index_);
  cudaFreeAsync(without_guards(memory, bytes, stream_), stream_);
  bytes_ -= static_cast<std::int64_t>(bytes);
}

}  // namespace kvreplay::cuda
