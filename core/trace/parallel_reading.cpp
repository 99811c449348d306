#include "core/trace/parallel_reading_internal.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/trace/hdf5_internal.h"

namespace kvreplay {
namespace {

constexpr int reading_threads = 8;  // more gain nothing: the memory's own rate is reached
constexpr std::size_t piece_bytes = std::size_t{2} << 20;
constexpr std::size_t batch_bytes = std::size_t{1} << 20;  // handed to the threads at once

struct Piece {
  std::uint64_t offset;
  std::size_t bytes;
  std::byte* out;
};

// Reads that wait for threads. One thread adds, all read.
class ReadQueue {
 public:
  ReadQueue(int file, std::int64_t file_bytes) : file_(file), file_bytes_(static_cast<std::uint64_t>(file_bytes)) {}

  // Called by the thread that adds, whenever there is more to read.
  std::function<void()> on_more;

  // False when the piece does not lie in the file.
  bool add(std::uint64_t offset, std::size_t bytes, std::byte* out) {
    if (offset > file_bytes_ || bytes > file_bytes_ - offset) return false;
    for (std::size_t done = 0; done < bytes; done += piece_bytes) {
      pending_.push_back({offset + done, std::min(piece_bytes, bytes - done), out + done});
      pending_bytes_ += pending_.back().bytes;
      if (pending_bytes_ >= batch_bytes) hand_over();
    }
    return true;
  }

  void close() {
    hand_over();
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }
  // What was not begun is left.
  void abandon() {
    const std::lock_guard lock(mutex_);
    batches_.clear();
    closed_ = true;
    changed_.notify_all();
  }

  void work() {
    for (;;) {
      std::vector<Piece> batch;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return closed_ || !batches_.empty(); });
        if (batches_.empty()) return;
        batch = std::move(batches_.back());
        batches_.pop_back();
      }
      for (const Piece& piece : batch)
        if (!read(piece)) {
          abandon();
          return;
        }
    }
  }

  // Of a read that failed; 0: none. End of file: ENODATA.
  int failure() const { return failure_; }

 private:
  void hand_over() {
    if (pending_.empty()) return;
    {
      const std::lock_guard lock(mutex_);
      if (!closed_) batches_.push_back(std::move(pending_));
      pending_ = {};
      pending_bytes_ = 0;
    }
    changed_.notify_one();
    if (on_more) on_more();
  }

  bool read(Piece piece) {
    while (piece.bytes > 0) {
      const ssize_t got = pread(file_, piece.out, piece.bytes, static_cast<off_t>(piece.offset));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        const std::lock_guard lock(mutex_);
        failure_ = got < 0 ? errno : ENODATA;
        return false;
      }
      piece.offset += static_cast<std::uint64_t>(got);
      piece.out += got;
      piece.bytes -= static_cast<std::size_t>(got);
    }
    return true;
  }

  int file_;
  std::uint64_t file_bytes_;
  std::vector<Piece> pending_;  // of the thread that adds
  std::size_t pending_bytes_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::vector<Piece>> batches_;
  bool closed_ = false;
  int failure_ = 0;
};

// ---- the file driver ---------------------------------------------------------------------------------------------------

// What the thread that calls HDF5 wants of the driver. Set while hdf5::Guard is held.
struct Wanted {
  int file = -1;               // the next open() is of this descriptor
  ReadQueue* queue = nullptr;  // where reads into [out, end) go
  std::byte *out = nullptr, *end = nullptr;
};
thread_local Wanted wanted;

struct DriverFile {
  H5FD_t base;  // HDF5's part comes first
  int file;
  haddr_t allocated_end, end;
};
DriverFile* of(H5FD_t* base) { return reinterpret_cast<DriverFile*>(base); }
const DriverFile* of(const H5FD_t* base) { return reinterpret_cast<const DriverFile*>(base); }

H5FD_t* open_driver_file(const char*, unsigned flags, hid_t, haddr_t) {
  if ((flags & H5F_ACC_RDWR) != 0 || wanted.file < 0) return nullptr;
  const int file = fcntl(wanted.file, F_DUPFD_CLOEXEC, 0);
  if (file < 0) return nullptr;
  const off_t end = lseek(file, 0, SEEK_END);  // every read says where it reads, so the position does not matter
  return &(new DriverFile{{}, file, 0, end < 0 ? 0 : static_cast<haddr_t>(end)})->base;
}

herr_t close_driver_file(H5FD_t* base) {
  close(of(base)->file);
  delete of(base);
  return 0;
}

herr_t query_driver(const H5FD_t*, unsigned long* features) {
  *features = H5FD_FEAT_AGGREGATE_METADATA;  // no sieve: tensor data goes to where it was asked for
  return 0;
}

haddr_t allocated_end_of(const H5FD_t* base, H5FD_mem_t) { return of(base)->allocated_end; }
herr_t set_allocated_end(H5FD_t* base, H5FD_mem_t, haddr_t end) {
  of(base)->allocated_end = end;
  return 0;
}
haddr_t end_of(const H5FD_t* base, H5FD_mem_t) { return of(base)->end; }

herr_t read_driver_file(H5FD_t* base, H5FD_mem_t kind, hid_t, haddr_t offset, std::size_t bytes, void* target) {
  auto* out = static_cast<std::byte*>(target);
  // Only what HDF5 would put into the caller's memory and never look at can wait.
  if (wanted.queue != nullptr && kind == H5FD_MEM_DRAW && out >= wanted.out && out < wanted.end &&
      bytes <= static_cast<std::size_t>(wanted.end - out))
    return wanted.queue->add(offset, bytes, out) ? 0 : -1;
  while (bytes > 0) {
    const ssize_t got = pread(of(base)->file, out, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (got == 0) {  // as HDF5's own driver: zeros behind the end of the file
      std::memset(out, 0, bytes);
      return 0;
    }
    offset += static_cast<haddr_t>(got);
    out += got;
    bytes -= static_cast<std::size_t>(got);
  }
  return 0;
}

herr_t refuse_to_write(H5FD_t*, H5FD_mem_t, hid_t, haddr_t, std::size_t, const void*) { return -1; }

H5FD_class_t driver_class() {
  H5FD_class_t driver{};
  driver.name = "kvreplay_locating";
  driver.maxaddr = (haddr_t{1} << 62) - 1;
  driver.fc_degree = H5F_CLOSE_STRONG;
  driver.open = open_driver_file;
  driver.close = close_driver_file;
  driver.query = query_driver;
  driver.get_eoa = allocated_end_of;
  driver.set_eoa = set_allocated_end;
  driver.get_eof = end_of;
  driver.read = read_driver_file;
  driver.write = refuse_to_write;
  const std::array<H5FD_mem_t, H5FD_MEM_NTYPES> kinds = H5FD_FLMAP_DICHOTOMY;
  std::copy(kinds.begin(), kinds.end(), driver.fl_map);
  return driver;
}

hid_t driver_id() {
  static const H5FD_class_t driver = driver_class();
  static const hid_t id = H5FDregister(&driver);
  return id;
}

// Threads that read from the queue while the caller adds to it: one more with each batch, so that the first ones read while
// the others are made.
class Readers {
 public:
  explicit Readers(ReadQueue& queue) : queue_(queue), most_(std::min(reading_threads, thread_count()) - 1) {
    queue_.on_more = [this] { add_thread(); };
  }
  ~Readers() {
    queue_.abandon();
    join();
  }
  void finish() {
    queue_.close();
    queue_.work();
    join();
  }

 private:
  void add_thread() {
    if (static_cast<int>(threads_.size()) >= most_) return;
    try {
      threads_.emplace_back([this] { queue_.work(); });
    } catch (const std::system_error&) {
      most_ = static_cast<int>(threads_.size());  // fewer threads do it too
    }
  }
  void join() {
    for (auto& thread : threads_) thread.join();
    threads_.clear();
  }

  ReadQueue& queue_;
  int most_;
  std::vector<std::thread> threads_;
};

}  // namespace

struct ParallelReader::State {
  hdf5::File file;
  int descriptor = -1;
  std::int64_t file_bytes = 0;
  // The last one, ready for its next slice.
  mutable std::string open_node;
  mutable hdf5::Dataset dataset;

  ~State() {
    const hdf5::Guard guard;
    dataset.reset();
    file.reset();
  }

  void open(const std::string& node) const {
    if (dataset.valid() && open_node == node) return;
    const hdf5::Properties access(H5Pcreate(H5P_DATASET_ACCESS));
    H5Pset_chunk_cache(access, 1, 0, 0.75);  // no chunk is held, so that all are read to where they are wanted
    dataset = hdf5::Dataset(H5Dopen2(file, node.c_str(), access));
    open_node = node;
  }

  // HDF5's part of a read: pieces go to the queue.
  bool locate(const std::string& node, std::span<const std::int64_t> start, std::span<const std::int64_t> count,
              ReadQueue& queue, std::byte* out, std::size_t bytes) const {
    const hdf5::Guard guard;
    open(node);
    const hdf5::Type type(dataset.valid() ? H5Dget_type(dataset) : H5I_INVALID_HID);
    const hdf5::Space from(dataset.valid() ? H5Dget_space(dataset) : H5I_INVALID_HID);
    const std::vector<hsize_t> at(start.begin(), start.end()), extent(count.begin(), count.end());
    if (!type.valid() || !from.valid() || H5Sget_simple_extent_ndims(from) != static_cast<int>(at.size())) return failed();
    const hdf5::Space to(H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr));
    if (!to.valid() || H5Sselect_hyperslab(from, H5S_SELECT_SET, at.data(), nullptr, extent.data(), nullptr) < 0)
      return failed();
    wanted = {-1, &queue, out, out + bytes};
    const herr_t status = H5Dread(dataset, type, to, from, H5P_DEFAULT, out);
    wanted = {};
    return status >= 0 || failed();
  }

  static bool failed() {
    H5Eclear2(H5E_DEFAULT);
    return false;
  }
};

ParallelReader::ParallelReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
ParallelReader::~ParallelReader() = default;

std::unique_ptr<ParallelReader> ParallelReader::open(const std::string& path, int file, std::int64_t file_bytes) {
  const hdf5::Guard guard;
  const hdf5::Properties access(H5Pcreate(H5P_FILE_ACCESS));
  H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
  if (driver_id() < 0 || H5Pset_driver(access, driver_id(), nullptr) < 0) return nullptr;
  auto state = std::make_unique<State>();
  wanted = {file, nullptr, nullptr, nullptr};
  state->file = hdf5::File(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access));
  wanted = {};
  state->descriptor = file;
  state->file_bytes = file_bytes;
  if (!state->file.valid()) {
    H5Eclear2(H5E_DEFAULT);
    return nullptr;
  }
  return std::unique_ptr<ParallelReader>(new ParallelReader(std::move(state)));
}

bool ParallelReader::read(const std::string& node, const std::string& where, std::span<const std::int64_t> start,
                          std::span<const std::int64_t> count, std::byte* out, std::size_t bytes) const {
  ReadQueue queue(state_->descriptor, state_->file_bytes);
  Readers readers(queue);
  if (!state_->locate(node, start, count, queue, out, bytes)) return false;
  readers.finish();
  if (queue.failure() == ENODATA) throw Error(where, "is cut off: the file ends before its contents do");
  if (queue.failure() != 0) throw Error(where, std::string("cannot be read: ") + std::strerror(queue.failure()));
  return true;
}

}  // namespace kvreplay
