#include "core/trace/parallel_reading_internal.h"

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <functional>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/trace/chunk_decoding_internal.h"

namespace kvreplay {
namespace {

constexpr std::size_t max_rank = 4;
constexpr std::int64_t reading_threads = 8;                          // more gain nothing: the memory's own rate is reached
constexpr std::int64_t thread_bytes = std::int64_t{4} << 20;         // that are worth a thread
constexpr std::int64_t decoded_bytes = std::int64_t{64} << 10;       // the same where filters are undone, which takes longer
constexpr std::size_t batch_bytes = std::size_t{1} << 20;            // that a thread takes at once
constexpr std::int64_t least_run_bytes = 4096;                       // that is worth a place in a list of reads
constexpr std::int64_t most_staged_bytes = std::int64_t{256} << 20;  // of all threads; a chunk takes three times its size

using Point = std::array<std::int64_t, max_rank>;

std::int64_t product(std::span<const std::int64_t> values) {
  std::int64_t n = 1;
  for (const auto v : values) n *= v;
  return n;
}

// Runs work(i) for i in [0, count) on up to `threads` threads; the first exception is rethrown. Threads of its own rather
// than the pool's: a sandboxed reader may be a fork of a process whose pool it lacks.
void run_on_threads(std::int64_t threads, std::int64_t count, const std::function<void(std::int64_t)>& work) {
  std::atomic<std::int64_t> next{0};
  std::mutex failure_mutex;
  std::exception_ptr failure;
  const auto loop = [&] {
    for (std::int64_t i = next++; i < count; i = next++) try {
        work(i);
      } catch (...) {
        const std::lock_guard lock(failure_mutex);
        if (!failure) failure = std::current_exception();
        next = count;
      }
  };
  std::vector<std::thread> others;
  try {
    while (static_cast<std::int64_t>(others.size()) + 1 < std::min(threads, count)) others.emplace_back(loop);
  } catch (const std::system_error&) {
    // Fewer threads do it too.
  } catch (const std::bad_alloc&) {
  }
  loop();
  for (auto& other : others) other.join();
  if (failure) std::rethrow_exception(failure);
}

struct Piece {
  std::uint64_t offset;
  std::size_t bytes;
  std::byte* out;
};

class SlabReader {
 public:
  SlabReader(const ReadableDataset& dataset, const std::string& where, std::span<const std::int64_t> start,
             std::span<const std::int64_t> count, std::byte* out)
      : dataset_(dataset), where_(where), rank_(start.size()), start_(start), count_(count), out_(out) {
    element_ = dataset.info.type.size;
    chunk_bytes_ = static_cast<std::size_t>(product(dataset.places.chunk) * element_);
    for (std::size_t axis = 0; axis < rank_; ++axis) {
      first_[axis] = start[axis] / chunk(axis);
      chunks_[axis] = (start[axis] + count[axis] - 1) / chunk(axis) + 1 - first_[axis];
    }
  }

  bool read() {
    find_runs();
    if (!all_written()) return false;
    // A slab of one short row is as good as a long one.
    const bool long_runs = run_bytes_ >= least_run_bytes || run_bytes_ == product(count_) * element_;
    if (dataset_.info.filters.empty() && long_runs) {
      read_pieces(pieces());
      return true;
    }
    // Contiguous data would be staged as a whole.
    if (dataset_.info.chunk.empty() || 3 * static_cast<std::int64_t>(chunk_bytes_) > most_staged_bytes) return false;
    read_staged();
    return true;
  }

 private:
  std::int64_t chunk(std::size_t axis) const { return dataset_.places.chunk[axis]; }
  std::int64_t number_of_chunks() const { return product({chunks_.data(), rank_}); }

  // Coordinates of the slab's chunk number i, in chunks, and its number in the dataset's lists.
  std::size_t locate(std::int64_t i, Point& at) const {
    for (std::size_t axis = rank_; axis-- > 0; i /= chunks_[axis]) at[axis] = first_[axis] + i % chunks_[axis];
    std::int64_t index = 0;
    for (std::size_t axis = 0; axis < rank_; ++axis) index = index * dataset_.places.count[axis] + at[axis];
    return static_cast<std::size_t>(index);
  }

  bool all_written() const {
    Point at{};
    for (std::int64_t i = 0; i < number_of_chunks(); ++i)
      if (dataset_.places.offset[locate(i, at)] == ChunkPlaces::not_written) return false;
    return true;
  }

  // A run is what is contiguous in a chunk and in the slab: all axes after run_axis_ are taken whole by both.
  void find_runs() {
    run_axis_ = rank_ - 1;
    inner_ = element_;
    while (run_axis_ > 0 && count_[run_axis_] == chunk(run_axis_) && start_[run_axis_] % chunk(run_axis_) == 0)
      inner_ *= count_[run_axis_--];
    run_bytes_ = inner_ * std::min(chunk(run_axis_), count_[run_axis_]);
  }

  std::vector<Piece> pieces() const {
    std::vector<Piece> pieces;
    Point at{}, low{}, high{};
    for (std::int64_t i = 0; i < number_of_chunks(); ++i) {
      const std::uint64_t offset = dataset_.places.offset[locate(i, at)];
      for (std::size_t axis = 0; axis < rank_; ++axis) {
        low[axis] = std::max(start_[axis], at[axis] * chunk(axis));
        high[axis] = std::min(start_[axis] + count_[axis], (at[axis] + 1) * chunk(axis));
      }
      add_runs(offset, at, low, high, pieces);
    }
    return pieces;
  }

  void add_runs(std::uint64_t offset, const Point& at, const Point& low, const Point& high,
                std::vector<Piece>& pieces) const {
    const auto bytes = static_cast<std::size_t>((high[run_axis_] - low[run_axis_]) * inner_);
    for (Point row = low;;) {
      std::int64_t in_chunk = 0, in_slab = 0;
      for (std::size_t axis = 0; axis < rank_; ++axis) {
        in_chunk = in_chunk * chunk(axis) + row[axis] - at[axis] * chunk(axis);
        in_slab = in_slab * count_[axis] + row[axis] - start_[axis];
      }
      add(offset + static_cast<std::uint64_t>(in_chunk * element_), bytes, out_ + in_slab * element_, pieces);
      std::size_t axis = run_axis_;
      while (axis > 0 && ++row[axis - 1] == high[axis - 1]) {
        row[axis - 1] = low[axis - 1];
        --axis;
      }
      if (axis == 0) return;
    }
  }

  // Pieces that are longer than a batch are cut.
  static void add(std::uint64_t offset, std::size_t bytes, std::byte* out, std::vector<Piece>& pieces) {
    for (std::size_t done = 0; done < bytes; done += batch_bytes)
      pieces.push_back({offset + done, std::min(batch_bytes, bytes - done), out + done});
  }

  // In the order of the file, in batches that threads take.
  void read_pieces(std::vector<Piece> pieces) const {
    std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.offset < b.offset; });
    std::vector<std::size_t> batches = {0};
    std::size_t in_batch = 0;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      if (in_batch > 0 && in_batch + pieces[i].bytes > batch_bytes) {
        batches.push_back(i);
        in_batch = 0;
      }
      in_batch += pieces[i].bytes;
    }
    batches.push_back(pieces.size());
    run_on_threads(threads(thread_bytes), static_cast<std::int64_t>(batches.size()) - 1, [&](std::int64_t batch) {
      const auto begin = batches[static_cast<std::size_t>(batch)], end = batches[static_cast<std::size_t>(batch) + 1];
      read_batch({pieces.data() + begin, end - begin});
    });
  }

  // What is adjacent in the file with one call.
  void read_batch(std::span<Piece> pieces) const {
    std::array<iovec, 64> parts{};
    while (!pieces.empty()) {
      std::size_t n = 0;
      std::uint64_t end = pieces[0].offset;
      while (n < std::min(pieces.size(), parts.size()) && pieces[n].offset == end) {
        parts[n] = {pieces[n].out, pieces[n].bytes};
        end += pieces[n++].bytes;
      }
      read_parts(pieces[0].offset, {parts.data(), n});
      pieces = pieces.subspan(n);
    }
  }

  void read_parts(std::uint64_t offset, std::span<iovec> parts) const {
    while (!parts.empty()) {
      const ssize_t got = preadv(dataset_.file, parts.data(), static_cast<int>(parts.size()), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0)
        throw Error(where_, std::string("cannot be read: ") + std::strerror(errno),
                    "check the disk, or copy the file again");
      if (got == 0) throw Error(where_, "is cut off: the file ends before its contents do", "copy or capture it again");
      offset += static_cast<std::uint64_t>(got);
      auto left = static_cast<std::size_t>(got);
      while (!parts.empty() && left >= parts[0].iov_len) {
        left -= parts[0].iov_len;
        parts = parts.subspan(1);
      }
      if (left > 0) {
        parts[0].iov_base = static_cast<std::byte*>(parts[0].iov_base) + left;
        parts[0].iov_len -= left;
      }
    }
  }

  // Chunk by chunk, each whole, and from there what is wanted of it.
  void read_staged() const {
    const DatasetInfo& info = dataset_.info;
    const std::int64_t fit = most_staged_bytes / (3 * static_cast<std::int64_t>(chunk_bytes_));
    run_on_threads(std::min(threads(decoded_bytes), fit), number_of_chunks(), [&](std::int64_t i) {
      Point at{};
      const std::size_t index = locate(i, at);
      const auto& places = dataset_.places;
      std::vector<std::byte> stored(info.filters.empty() ? chunk_bytes_ : static_cast<std::size_t>(places.bytes[index]));
      iovec all{stored.data(), stored.size()};
      read_parts(places.offset[index], {&all, 1});
      std::vector<std::byte> decoded;
      if (info.filters.empty()) {
        decoded = std::move(stored);
      } else if (!decode_chunk(info.filters, places.skipped[index], static_cast<std::size_t>(element_), std::move(stored),
                               chunk_bytes_, decoded)) {
        throw Error(where_, "has a damaged chunk: it cannot be decompressed", "copy or capture it again");
      }
      for (std::size_t axis = 0; axis < rank_; ++axis) at[axis] *= chunk(axis);
      copy_intersection({at.data(), rank_}, places.chunk, decoded.data(), start_, count_, out_,
                        static_cast<std::size_t>(element_));
    });
  }

  std::int64_t threads(std::int64_t bytes_each) const {
    if (is_one_of_several()) return 1;
    const std::int64_t worth = product(count_) * element_ / bytes_each;
    return std::clamp<std::int64_t>(worth, 1, std::min<std::int64_t>(reading_threads, thread_count()));
  }

  const ReadableDataset& dataset_;
  const std::string& where_;
  const std::size_t rank_;
  std::span<const std::int64_t> start_, count_;
  std::byte* out_;
  std::int64_t element_ = 0, inner_ = 0, run_bytes_ = 0;
  std::size_t chunk_bytes_ = 0, run_axis_ = 0;
  Point first_{}, chunks_{};
};

}  // namespace

bool read_slab(const ReadableDataset& dataset, const std::string& where, std::span<const std::int64_t> start,
               std::span<const std::int64_t> count, std::byte* out) {
  if (start.empty() || start.size() > max_rank) return false;
  if (product(count) == 0) return true;
  return SlabReader(dataset, where, start, count, out).read();
}

}  // namespace kvreplay
