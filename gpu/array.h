// Arrays of the CUDA backend: a buffer on the device, or the promise of one. Internal to gpu.
//
// Window attention of a long prompt has 32 rows for each query head, more bytes than all keys and values together, and most
// scores need only its sums. So window_attention() returns arrays that are promised: an operation which can compute its
// result from the promise does so in one pass over the keys, any other has the array made first.
#pragma once

#include <functional>
#include <mutex>
#include <optional>

#include "gpu/layer.h"

namespace kvreplay::cuda {

// What a promised array is, for operations that can do without it.
class WindowAttention;  // weights of the window [Hq, W, n]: gpu/window.h
class RemovalErrors;    // errors of the window [Hq, W, n]: gpu/reconstruction.h

struct DeviceArray final : Array::Storage {
  explicit DeviceArray(Buffer<float> made) : values(std::move(made)) { count(1); }
  DeviceArray(std::function<Buffer<float>()> how) : make(std::move(how)) {}
  ~DeviceArray() override { count(-1); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  const float* data() const {
    const std::lock_guard lock(mutex);
    if (values.empty() && make) {
      values = make();
      make = nullptr;
      count(1);
    }
    return values.data();
  }
  bool promised() const { return values.empty() && static_cast<bool>(make); }

  mutable std::mutex mutex;
  mutable Buffer<float> values;
  mutable std::function<Buffer<float>()> make;
  std::optional<Array> prefix_of;           // set for the first columns of the rows of another array
  std::shared_ptr<WindowAttention> window;  // set for weights of a window
  std::shared_ptr<RemovalErrors> errors;    // set for removal errors of a window
  bool of_group = false;                    // and for their means over the query heads of each KV head [Hk, W, n]

 private:
  void count(int sign) const {
    if (!values.empty()) values.device().count_array(sign * static_cast<std::int64_t>(values.bytes()));
  }
};

inline const DeviceArray& device_array(const Array& array) { return static_cast<const DeviceArray&>(array.storage()); }
inline const float* device_data(const Array& array) { return device_array(array).data(); }

// Rows of scores [H, m] where they lie: of a promised prefix within the array that it is a part of.
struct DeviceRows {
  const float* data = nullptr;
  std::int64_t stride = 0;  // elements
};
inline DeviceRows device_rows(const Array& scores) {
  const DeviceArray& array = device_array(scores);
  if (array.promised() && array.prefix_of) return {device_data(*array.prefix_of), array.prefix_of->dim(1)};
  return {array.data(), scores.dim(1)};
}

inline Array make_array(std::vector<std::int64_t> shape, Buffer<float> values) {
  return {std::move(shape), std::make_shared<DeviceArray>(std::move(values))};
}

inline std::int64_t element_count(const std::vector<std::int64_t>& shape) {
  std::int64_t count = 1;
  for (const auto extent : shape) count *= extent;
  return count;
}

}  // namespace kvreplay::cuda
