#include "gpu/loader.h"

#include <algorithm>

#include "core/base/error.h"
#include "gpu/kernels/smoothing.h"

namespace kvreplay::cuda {

Loader::~Loader() {
  cudaSetDevice(device_.index());
  cudaStreamSynchronize(device_.loading_stream());
  for (Slot& slot : slots_) {
    if (slot.copied != nullptr) cudaEventDestroy(slot.copied);
    if (slot.memory != nullptr) cudaFreeHost(slot.memory);
  }
}

void Loader::open_slots() {
  for (Slot& slot : slots_) {
    if (slot.memory != nullptr) continue;
    if (slot.copied == nullptr) check(cudaEventCreateWithFlags(&slot.copied, cudaEventDisableTiming), "making an event");
    void* memory = nullptr;
    check(cudaMallocHost(&memory, slot_bytes), "pinned memory for reading traces");
    slot.memory = static_cast<std::byte*>(memory);
  }
}

// One piece, of whole rows that fit into a slot.
void Loader::copy(const Trace& trace, int layer, LayerDataset which, IndexRange heads, IndexRange rows, std::byte* target,
                  std::size_t row_bytes) {
  Slot& slot = slots_[next_];
  next_ = (next_ + 1) % slots_.size();
  check(cudaEventSynchronize(slot.copied), "waiting for a copy to the device");
  trace.read_stored(layer, which, slot.memory, heads, rows);
  const std::size_t bytes = static_cast<std::size_t>((heads.end - heads.begin) * (rows.end - rows.begin)) * row_bytes;
  check(cudaMemcpyAsync(target, slot.memory, bytes, cudaMemcpyHostToDevice, device_.loading_stream()),
        "copying to the device");
  check(cudaEventRecord(slot.copied, device_.loading_stream()), "marking a copy to the device");
}

bool Loader::is_finite(const DeviceTensor& tensor) {
  const std::int64_t count = tensor.shape[0] * tensor.shape[1] * tensor.shape[2];
  const cudaStream_t stream = device_.loading_stream();
  Buffer<unsigned long long> first(device_, 1, stream);
  check(cudaMemsetAsync(first.data(), 0xff, first.bytes(), stream), "clearing device memory");
  launch_find_not_finite(tensor.data(), tensor.type, count, first.data(), stream);
  unsigned long long found = 0;
  check(cudaMemcpyAsync(&found, first.data(), sizeof found, cudaMemcpyDeviceToHost, stream), "copying from the device");
  check(cudaStreamSynchronize(stream), "waiting for a load");
  return found >= static_cast<unsigned long long>(count);
}

DeviceTensor Loader::load(const Trace& trace, int layer, LayerDataset which, IndexRange heads, IndexRange rows) {
  const std::lock_guard lock(mutex_);
  device_.make_current();
  open_slots();
  DeviceTensor tensor;
  tensor.type = trace.type(layer, which);
  tensor.shape = trace.shape(layer, which);
  if (heads.end < 0) heads.end = tensor.shape[0];
  if (rows.end < 0) rows.end = tensor.shape[1];
  tensor.shape[0] = heads.end - heads.begin;
  tensor.shape[1] = rows.end - rows.begin;
  const std::size_t row_bytes = static_cast<std::size_t>(tensor.shape[2]) * element_size(tensor.type);
  const std::size_t head_bytes = static_cast<std::size_t>(tensor.shape[1]) * row_bytes;
  const std::size_t bytes = static_cast<std::size_t>(tensor.shape[0]) * head_bytes;
  if (row_bytes > slot_bytes)
    throw Error(trace.path(), "has rows of " + std::to_string(row_bytes >> 20) + " MiB, which this backend does not take",
                "use --backend cpu");
  tensor.bytes = Buffer<std::byte>(device_, static_cast<std::int64_t>(bytes), device_.loading_stream());
  if (bytes == 0) return tensor;
  // Destroyed before the tensor: its memory is given back only when no copy into it is under way, also when reading throws.
  struct Settle {
    cudaStream_t stream;
    ~Settle() { cudaStreamSynchronize(stream); }
  } const settle{device_.loading_stream()};
  if (head_bytes <= slot_bytes) {
    const auto heads_each = static_cast<std::int64_t>(slot_bytes / head_bytes);
    for (std::int64_t h = heads.begin; h < heads.end; h += heads_each)
      copy(trace, layer, which, {h, std::min(heads.end, h + heads_each)}, rows,
           tensor.bytes.data() + static_cast<std::size_t>(h - heads.begin) * head_bytes, row_bytes);
  } else {
    const auto rows_each = std::max<std::int64_t>(1, static_cast<std::int64_t>(slot_bytes / row_bytes));
    for (std::int64_t h = heads.begin; h < heads.end; ++h)
      for (std::int64_t r = rows.begin; r < rows.end; r += rows_each)
        copy(trace, layer, which, {h, h + 1}, {r, std::min(rows.end, r + rows_each)},
             tensor.bytes.data() + static_cast<std::size_t>(h - heads.begin) * head_bytes +
                 static_cast<std::size_t>(r - rows.begin) * row_bytes,
             row_bytes);
  }
  // The host's reader says where it is.
  if (!is_finite(tensor)) trace.read(layer, which, heads, rows);
  return tensor;
}

}  // namespace kvreplay::cuda
