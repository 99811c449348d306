// A slab of a dataset straight from the file to the caller's memory, with several threads and without HDF5, whose one lock
// and one thread would bound it. Internal to core/trace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/trace/chunk_places_internal.h"

namespace kvreplay {

struct ReadableDataset {
  int file = -1;  // open for reading; stays the owner's
  DatasetInfo info;
  ChunkPlaces places;
};

// The slab [start, start + count), which lies in the shape, as stored but for filters, to `out`. Small slabs are read by the
// calling thread. May be called from several threads at once. where: what errors name. False, with nothing promised about
// `out`, when a chunk of it was never written, or when its rows are so short that HDF5 is the better reader. Throws Error
// when it cannot be read or decoded.
bool read_slab(const ReadableDataset& dataset, const std::string& where, std::span<const std::int64_t> start,
               std::span<const std::int64_t> count, std::byte* out);

}  // namespace kvreplay
