// CUDA's calls with errors as exceptions, and device memory that is counted. Internal to gpu.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace kvreplay::cuda {

// Throws Error when `status` is not success: `what` says what was tried ("copying keys to the device"). Running out of
// device memory says how much is in use and what to do.
void check(cudaError_t status, const char* what);
// After a kernel's launch.
void check_launch(const char* kernel);

// One GPU: its properties and the stream on which this backend computes. Work that one backend starts is ordered by that
// stream; nothing waits for the whole device.
class Device {
 public:
  explicit Device(int index);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  int index() const { return index_; }
  const std::string& name() const { return name_; }
  int multiprocessors() const { return multiprocessors_; }
  int capability() const { return capability_; }                // 90 for 9.0
  std::size_t shared_memory() const { return shared_memory_; }  // that a block may ask for, bytes
  std::size_t memory() const { return memory_; }
  cudaStream_t stream() const { return stream_; }
  // A second stream, on which layers are loaded while the first one computes.
  cudaStream_t loading_stream() const { return loading_stream_; }
  void make_current() const;
  void synchronize() const;
  // Copies to the host and waits for the stream. Small results go through pinned memory, which is faster. One thread at a
  // time.
  void download(void* host, const void* device, std::size_t bytes);

  // Device memory that buffers hold now and have held at most, bytes.
  std::int64_t bytes() const { return bytes_; }
  std::int64_t peak_bytes() const { return peak_bytes_; }
  // What of them backs arrays of the backend.
  std::int64_t array_bytes() const { return array_bytes_; }
  void count_array(std::int64_t bytes) { array_bytes_ += bytes; }       // negative: gone
  std::int64_t restart_peak() { return peak_bytes_.exchange(bytes_); }  // the peak so far

  void* allocate(std::size_t bytes, cudaStream_t stream);  // usable by work that is later on `stream`
  void release(void* memory, std::size_t bytes) noexcept;  // after the work that is on stream() by now

 private:
  int index_;
  std::string name_;
  int multiprocessors_ = 0, capability_ = 0;
  std::size_t shared_memory_ = 0, memory_ = 0;
  cudaStream_t stream_ = nullptr, loading_stream_ = nullptr;
  static constexpr std::size_t small_bytes = std::size_t{1} << 20;
  std::mutex small_mutex_;
  void* small_ = nullptr;
  std::atomic<std::int64_t> bytes_ = 0, peak_bytes_ = 0, array_bytes_ = 0;
};

// `count` elements of device memory, uninitialised. Freed on the device's stream, so work that was started before may
// still use it.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(Device& device, std::int64_t count) : Buffer(device, count, device.stream()) {}
  Buffer(Device& device, std::int64_t count, cudaStream_t stream)
      : device_(&device), count_(count), data_(static_cast<T*>(count > 0 ? device.allocate(bytes(), stream) : nullptr)) {}
  Buffer(Buffer&& other) noexcept
      : device_(other.device_), count_(std::exchange(other.count_, 0)), data_(std::exchange(other.data_, nullptr)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(count_, other.count_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) device_->release(data_, bytes());
  }

  T* data() const { return data_; }
  std::int64_t size() const { return count_; }
  std::size_t bytes() const { return static_cast<std::size_t>(count_) * sizeof(T); }
  bool empty() const { return data_ == nullptr; }
  Device& device() const { return *device_; }  // of a buffer that is not empty

  void fill_bytes(int byte) {
    if (data_ != nullptr) check(cudaMemsetAsync(data_, byte, bytes(), device_->stream()), "clearing device memory");
  }
  // From memory that may go as soon as this returns (CUDA copies what is not pinned to memory of its own first).
  void upload(const T* values) {
    if (data_ != nullptr)
      check(cudaMemcpyAsync(data_, values, bytes(), cudaMemcpyHostToDevice, device_->stream()), "copying to the device");
  }
  // Waits for the stream.
  std::vector<T> download() const {
    std::vector<T> values(static_cast<std::size_t>(count_));
    if (data_ != nullptr) device_->download(values.data(), data_, bytes());
    return values;
  }

 private:
  Device* device_ = nullptr;
  std::int64_t count_ = 0;
  T* data_ = nullptr;
};

template <class T>
Buffer<T> uploaded(Device& device, const std::vector<T>& values) {
  Buffer<T> buffer(device, static_cast<std::int64_t>(values.size()));
  buffer.upload(values.data());
  return buffer;
}

}  // namespace kvreplay::cuda
