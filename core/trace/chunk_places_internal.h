// Where in the file the chunks of a dataset lie, read from the file's own index. Internal to core/trace.
//
// HDF5 finds one chunk at a time under one lock: about 7 µs each, so that a layer of 64 KiB chunks can be had at 9 GB/s at
// most, however many threads there are. The index of a whole dataset is a few blocks of some KiB, which are read here as the
// HDF5 file format specification (version 3) lays them out: contiguous data, and chunks found through version-1 B-trees (the
// oldest format), fixed arrays, extensible arrays, implicit indices and single chunks (since HDF5 1.10).
//
// Files may be made to break readers: every place and size is checked against the file's before it is used, and the work is
// bounded by the file's bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/trace/source_internal.h"

namespace kvreplay {

struct ChunkPlaces {
  static constexpr std::uint64_t not_written = ~std::uint64_t{0};

  std::vector<std::int64_t> chunk;     // of each axis; contiguous data is one chunk of the dataset's own shape
  std::vector<std::int64_t> count;     // how many chunks each axis has; of all lists below the shape, row-major
  std::vector<std::uint64_t> offset;   // bytes from the start of the file, or not_written; the chunk ends in the file
  std::vector<std::uint64_t> bytes;    // as stored; empty without filters: all chunks are whole
  std::vector<std::uint32_t> skipped;  // bit k: filter k was not applied; empty without filters
};

// Of the dataset whose object header begins at `object`. file: open for reading, of `file_bytes`. most: the largest shape
// that the dataset may take; -1: unlimited. info: what HDF5 says of the dataset. Nothing where the index is of another kind
// (version-2 B-trees), is damaged, or has more than some million chunks: HDF5 then has to read the dataset.
std::optional<ChunkPlaces> find_chunks(int file, std::int64_t file_bytes, std::uint64_t object, const DatasetInfo& info,
                                       const std::vector<std::int64_t>& most);

}  // namespace kvreplay
