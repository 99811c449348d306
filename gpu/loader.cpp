#include "gpu/loader.h"

#include <algorithm>
#include <system_error>

#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/trace/trace_writer.h"
#include "gpu/kernels/smoothing.h"

namespace kvreplay::cuda {
namespace {

std::int64_t length(IndexRange range) { return range.end - range.begin; }

}  // namespace

Loader::~Loader() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (auto& helper : helpers_) helper.join();
  cudaSetDevice(device_.index());
  cudaStreamSynchronize(device_.loading_stream());
  if (quick_ != nullptr) {
    cudaStreamSynchronize(quick_);
    cudaStreamDestroy(quick_);
  }
  for (const Slot& slot : slots_)
    if (slot.copied != nullptr) cudaEventDestroy(slot.copied);
  if (memory_ != nullptr) cudaFreeHost(memory_);
}

// Two slots a thread: one is filled while the other one is copied.
void Loader::start() {
  const std::lock_guard lock(mutex_);
  if (started_) return;
  const int threads = std::clamp(thread_count(), 2, most_threads);
  if (quick_ == nullptr) check(cudaStreamCreateWithFlags(&quick_, cudaStreamNonBlocking), "making a stream");
  slots_.resize(2 * static_cast<std::size_t>(threads));
  for (Slot& slot : slots_)
    if (slot.copied == nullptr) check(cudaEventCreateWithFlags(&slot.copied, cudaEventDisableTiming), "making an event");
  void* memory = nullptr;
  check(cudaMallocHost(&memory, slots_.size() * slot_bytes), "pinned memory for reading traces");
  memory_ = static_cast<std::byte*>(memory);
  for (std::size_t s = 0; s < slots_.size(); ++s) {
    slots_[s].memory = memory_ + s * slot_bytes;
    free_.push_back(&slots_[s]);
  }
  started_ = true;
  try {
    while (static_cast<int>(helpers_.size()) + 1 < threads) helpers_.emplace_back([this] { help(); });
  } catch (const std::system_error&) {
    // Fewer threads do it too.
  }
}

void Loader::help() {
  if (cudaSetDevice(device_.index()) != cudaSuccess) return;
  std::unique_lock lock(mutex_);
  for (;;) {
    Transfer* transfer = nullptr;
    work_.wait(lock, [&] {
      const auto found =
          std::find_if(transfers_.begin(), transfers_.end(), [](const Transfer* t) { return t->next < t->pieces.size(); });
      transfer = found != transfers_.end() ? *found : nullptr;
      return stopping_ || transfer != nullptr;
    });
    if (stopping_) return;
    ++transfer->helpers;
    lock.unlock();
    take_pieces(*transfer);
    lock.lock();
    --transfer->helpers;
    changed_.notify_all();
  }
}

// Pieces of whole rows that fit into a slot: of all heads, as a capture stores them side by side, where that leaves each
// many rows. A row that no slot holds is a piece of its own.
void Loader::cut(Transfer& transfer) const {
  const auto fit = std::max<std::int64_t>(1, static_cast<std::int64_t>(slot_bytes / transfer.row_bytes));
  const std::int64_t heads = length(transfer.heads), rows = length(transfer.rows);
  const std::int64_t heads_each = std::clamp<std::int64_t>(fit / std::min(rows, rows_of_chunk), 1, heads);
  std::int64_t rows_each = std::min(rows, std::max<std::int64_t>(1, fit / heads_each));
  if (rows_each < rows && rows_each > rows_of_chunk) rows_each -= rows_each % rows_of_chunk;
  for (std::int64_t r = transfer.rows.begin; r < transfer.rows.end; r += rows_each)
    for (std::int64_t h = transfer.heads.begin; h < transfer.heads.end; h += heads_each)
      transfer.pieces.push_back(
          {{h, std::min(transfer.heads.end, h + heads_each)}, {r, std::min(transfer.rows.end, r + rows_each)}});
}

// Returns when every copy was started, or no more will be.
void Loader::run(Transfer& transfer) {
  if (transfer.pieces.size() > 1) {
    const std::lock_guard lock(mutex_);
    transfers_.push_back(&transfer);
    work_.notify_all();
  }
  take_pieces(transfer);
  std::unique_lock lock(mutex_);
  std::erase(transfers_, &transfer);
  changed_.wait(lock, [&] { return transfer.helpers == 0; });
  if (transfer.failure) std::rethrow_exception(transfer.failure);
}

void Loader::take_pieces(Transfer& transfer) {
  for (std::size_t i = transfer.next++; i < transfer.pieces.size(); i = transfer.next++) try {
      move(transfer, transfer.pieces[i]);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!transfer.failure) transfer.failure = std::current_exception();
      transfer.next = transfer.pieces.size();
    }
}

void Loader::move(const Transfer& transfer, const Piece& piece) {
  const SerialScope serial;  // threads enough: each piece is one's own
  if (transfer.row_bytes > slot_bytes) {
    std::vector<std::byte> row(transfer.row_bytes);
    transfer.trace.read_stored(transfer.layer, transfer.which, row.data(), piece.heads, piece.rows);
    copy(transfer, piece, row.data());
    check(cudaStreamSynchronize(transfer.stream), "waiting for a load");
    return;
  }
  Slot* slot = nullptr;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !free_.empty(); });
    slot = free_.front();
    free_.pop_front();
  }
  struct GiveBack {
    Loader& loader;
    Slot* slot;
    ~GiveBack() {
      const std::lock_guard lock(loader.mutex_);
      loader.free_.push_back(slot);
      loader.changed_.notify_all();
    }
  } const give_back{*this, slot};
  check(cudaEventSynchronize(slot->copied), "waiting for a copy to the device");
  transfer.trace.read_stored(transfer.layer, transfer.which, slot->memory, piece.heads, piece.rows);
  copy(transfer, piece, slot->memory);
  check(cudaEventRecord(slot->copied, transfer.stream), "marking a copy to the device");
}

void Loader::copy(const Transfer& transfer, const Piece& piece, const std::byte* from) const {
  const std::size_t head_bytes = transfer.head_bytes();
  const std::size_t bytes = static_cast<std::size_t>(length(piece.rows)) * transfer.row_bytes;  // of each head
  std::byte* to = transfer.target + static_cast<std::size_t>(piece.heads.begin - transfer.heads.begin) * head_bytes +
                  static_cast<std::size_t>(piece.rows.begin - transfer.rows.begin) * transfer.row_bytes;
  const auto heads = static_cast<std::size_t>(length(piece.heads));
  constexpr std::size_t largest_pitch = std::size_t{1} << 30;
  if (bytes == head_bytes || heads == 1) {
    check(cudaMemcpyAsync(to, from, heads * bytes, cudaMemcpyHostToDevice, transfer.stream), "copying to the device");
  } else if (head_bytes <= largest_pitch) {
    check(cudaMemcpy2DAsync(to, head_bytes, from, bytes, bytes, heads, cudaMemcpyHostToDevice, transfer.stream),
          "copying to the device");
  } else {
    for (std::size_t h = 0; h < heads; ++h)
      check(cudaMemcpyAsync(to + h * head_bytes, from + h * bytes, bytes, cudaMemcpyHostToDevice, transfer.stream),
            "copying to the device");
  }
}

bool Loader::is_finite(const DeviceTensor& tensor, cudaStream_t stream) {
  const std::int64_t count = tensor.shape[0] * tensor.shape[1] * tensor.shape[2];
  Buffer<unsigned long long> first(device_, 1, stream);
  check(cudaMemsetAsync(first.data(), 0xff, first.bytes(), stream), "clearing device memory");
  launch_find_not_finite(tensor.data(), tensor.type, count, first.data(), stream);
  unsigned long long found = 0;
  check(cudaMemcpyAsync(&found, first.data(), sizeof found, cudaMemcpyDeviceToHost, stream), "copying from the device");
  check(cudaStreamSynchronize(stream), "waiting for a load");
  return found >= static_cast<unsigned long long>(count);
}

DeviceTensor Loader::load(const Trace& trace, int layer, LayerDataset which, IndexRange heads, IndexRange rows) {
  device_.make_current();
  start();
  DeviceTensor tensor;
  tensor.type = trace.type(layer, which);
  tensor.shape = trace.shape(layer, which);
  if (heads.end < 0) heads.end = tensor.shape[0];
  if (rows.end < 0) rows.end = tensor.shape[1];
  tensor.shape[0] = length(heads);
  tensor.shape[1] = length(rows);
  const std::size_t row_bytes = static_cast<std::size_t>(tensor.shape[2]) * element_size(tensor.type);
  const std::int64_t bytes = tensor.shape[0] * tensor.shape[1] * static_cast<std::int64_t>(row_bytes);
  if (bytes == 0) return tensor;
  const bool small = bytes <= static_cast<std::int64_t>(slot_bytes);
  Transfer transfer{trace, layer, which, heads, rows, row_bytes, nullptr, small ? quick_ : device_.loading_stream()};
  tensor.bytes = Buffer<std::byte>(device_, bytes, transfer.stream);
  transfer.target = tensor.bytes.data();
  // Destroyed before the tensor: its memory is given back only when no copy into it is under way, also when reading throws.
  struct Settle {
    cudaStream_t stream;
    ~Settle() { cudaStreamSynchronize(stream); }
  } const settle{transfer.stream};
  cut(transfer);
  run(transfer);
  if (!is_finite(tensor, transfer.stream)) {
    trace.read(layer, which, heads, rows);  // says where it is
    throw Error(trace.path() + ":/layers/" + layer_name(layer) + "/" + std::string(layer_dataset_name(which)),
                "held a NaN or an infinity, and none when it was read again",
                "leave the file alone while it is replayed, and try again");
  }
  return tensor;
}

}  // namespace kvreplay::cuda
