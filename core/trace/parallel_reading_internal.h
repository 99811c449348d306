// Uncompressed datasets straight from the file to the caller's memory, with several threads. Internal to core/trace.
//
// HDF5 reads with one thread, under one lock. Here it only says where the bytes lie: the file is opened once more through a
// driver of our own, whose reads of tensor data into the caller's memory are noted instead of done. HDF5's own reading code
// thus resolves every kind of layout (contiguous, chunks in any index, chunks that were never written), and threads do the
// noted reads while it goes on resolving: about 2 µs a chunk, so that 64 KiB chunks can be had at 30 GB/s.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace kvreplay {

class ParallelReader {
 public:
  // path: of the HDF5 file that descriptor `file` has open; it stays the owner's. Null when HDF5 cannot open it this way.
  static std::unique_ptr<ParallelReader> open(const std::string& path, int file, std::int64_t file_bytes);
  ~ParallelReader();

  // The slab [start, start + count) of a dataset without filters, as stored, to `out`, which holds `bytes`. where: what
  // errors name. False, with nothing promised about `out`, when HDF5 cannot say where the bytes lie. Throws Error when they
  // cannot be read or lie outside of the file.
  bool read(const std::string& node, const std::string& where, std::span<const std::int64_t> start,
            std::span<const std::int64_t> count, std::byte* out, std::size_t bytes) const;

 private:
  struct State;
  explicit ParallelReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace kvreplay
