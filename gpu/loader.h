// From a trace to the device, through pinned memory: a piece is read while the one before it is copied. Internal to gpu.
#pragma once

#include <array>
#include <mutex>

#include "core/trace/trace.h"
#include "gpu/device.h"

namespace kvreplay::cuda {

// Elements on the device in the type that the trace stores.
struct DeviceTensor {
  ElementType type = ElementType::float32;
  std::array<std::int64_t, 3> shape{};
  Buffer<std::byte> bytes;
  const void* data() const { return bytes.data(); }
};

class Loader {
 public:
  explicit Loader(Device& device) : device_(device) {}
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // Returns when the slice is on the device, whatever stream(s) it is used on. May be called from several threads, one at a
  // time loads. Throws Error of Trace::read, also where the slice holds a NaN or an infinity.
  DeviceTensor load(const Trace& trace, int layer, LayerDataset which, IndexRange heads = {}, IndexRange rows = {});

 private:
  struct Slot {
    std::byte* memory = nullptr;
    cudaEvent_t copied = nullptr;
  };
  static constexpr std::size_t slot_bytes = std::size_t{32} << 20;

  void open_slots();
  void copy(const Trace& trace, int layer, LayerDataset which, IndexRange heads, IndexRange rows, std::byte* target,
            std::size_t row_bytes);
  bool is_finite(const DeviceTensor& tensor);

  Device& device_;
  std::mutex mutex_;
  std::array<Slot, 3> slots_;
  std::size_t next_ = 0;
};

}  // namespace kvreplay::cuda
