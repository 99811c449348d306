// HDF5's own filters on one chunk, undone and applied outside HDF5's lock, so that several threads can. Internal to
// core/trace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvreplay {

// Whether decode_chunk knows all of these (shuffle and deflate; Fletcher-32 is left to HDF5).
bool can_decode(const std::vector<int>& filters);

// stored: the chunk's bytes in the file. skipped: bit k set where filter k was not applied. Gives exactly `bytes` bytes,
// or false when the chunk is damaged.
bool decode_chunk(const std::vector<int>& filters, std::uint32_t skipped, std::size_t element_bytes,
                  std::vector<std::byte> stored, std::size_t bytes, std::vector<std::byte>& out);

// The bytes of a chunk after shuffle and deflate, as HDF5 stores them with these two filters.
std::vector<std::byte> encode_chunk(std::span<const std::byte> chunk, std::size_t element_bytes, int level);

// Copies the part of a chunk that lies in the slab. All in elements; both are row-major.
void copy_intersection(std::span<const std::int64_t> chunk_at, std::span<const std::int64_t> chunk_shape,
                       const std::byte* chunk, std::span<const std::int64_t> slab_at,
                       std::span<const std::int64_t> slab_shape, std::byte* slab, std::size_t element_bytes);

}  // namespace kvreplay
