// From a trace to the device, through pinned memory. Internal to gpu.
//
// Several threads each read a piece of a few MiB and start its copy, so that reading (one copy by a processor) and copying
// to the device go on at the same time and no thread waits for another. The pieces are small, so that what was read is still
// in the processor's cache when the device fetches it.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

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

  // Returns when the slice is on the device, whatever stream(s) it is used on. May be called from several threads: a small
  // slice does not wait for a large one. Reads the trace from several threads at once. Throws Error of Trace::read, also
  // where the slice holds a NaN or an infinity.
  DeviceTensor load(const Trace& trace, int layer, LayerDataset which, IndexRange heads = {}, IndexRange rows = {});

 private:
  static constexpr std::size_t slot_bytes = std::size_t{4} << 20;
  static constexpr int most_threads = 8;  // of each backend; a device may have several

  struct Slot {
    std::byte* memory = nullptr;
    cudaEvent_t copied = nullptr;
  };
  struct Piece {
    IndexRange heads, rows;
  };
  // A slice on its way.
  struct Transfer {
    const Trace& trace;
    int layer;
    LayerDataset which;
    IndexRange heads, rows;
    std::size_t row_bytes;
    std::byte* target;
    cudaStream_t stream;
    std::vector<Piece> pieces = {};
    std::atomic<std::size_t> next = 0;
    int helpers = 0;                  // guarded by mutex_, as is the next
    std::exception_ptr failure = {};  // the first one

    std::size_t head_bytes() const { return static_cast<std::size_t>(rows.end - rows.begin) * row_bytes; }
  };

  void start();
  void help();
  void cut(Transfer& transfer) const;
  void run(Transfer& transfer);
  void take_pieces(Transfer& transfer);
  void move(const Transfer& transfer, const Piece& piece);
  void copy(const Transfer& transfer, const Piece& piece, const std::byte* from) const;
  bool is_finite(const DeviceTensor& tensor, cudaStream_t stream);

  Device& device_;
  std::mutex mutex_;
  std::condition_variable work_, changed_;
  bool started_ = false, stopping_ = false;
  std::byte* memory_ = nullptr;   // of all slots
  cudaStream_t quick_ = nullptr;  // for slices of one piece, which would queue behind others
  std::vector<Slot> slots_;
  std::deque<Slot*> free_;  // that no thread fills; the one whose copy began first is the first
  std::vector<Transfer*> transfers_;
  std::vector<std::thread> helpers_;
};

}  // namespace kvreplay::cuda
