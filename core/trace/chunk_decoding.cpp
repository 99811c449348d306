#include "core/trace/chunk_decoding_internal.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace kvreplay {
namespace {

constexpr int deflate_filter = 1, shuffle_filter = 2;  // HDF5's numbers

bool inflate_exactly(const std::vector<std::byte>& stored, std::vector<std::byte>& out, std::size_t bytes) {
  out.resize(bytes);
  uLongf size = bytes;
  const int status =
      uncompress(reinterpret_cast<Bytef*>(out.data()), &size, reinterpret_cast<const Bytef*>(stored.data()), stored.size());
  return status == Z_OK && size == bytes;
}

// Shuffled: the first byte of every element, then the second of every element, and so on; what does not fill an element
// stays at the end.
void unshuffle(const std::vector<std::byte>& shuffled, std::vector<std::byte>& out, std::size_t element_bytes) {
  out.resize(shuffled.size());
  const std::size_t elements = shuffled.size() / element_bytes;
  for (std::size_t byte = 0; byte < element_bytes; ++byte) {
    const std::byte* from = shuffled.data() + byte * elements;
    for (std::size_t i = 0; i < elements; ++i) out[i * element_bytes + byte] = from[i];
  }
  const std::size_t whole = elements * element_bytes;
  std::copy(shuffled.begin() + static_cast<std::ptrdiff_t>(whole), shuffled.end(),
            out.begin() + static_cast<std::ptrdiff_t>(whole));
}

}  // namespace

bool can_decode(const std::vector<int>& filters) {
  return !filters.empty() &&
         std::all_of(filters.begin(), filters.end(), [](int f) { return f == deflate_filter || f == shuffle_filter; });
}

bool decode_chunk(const std::vector<int>& filters, std::uint32_t skipped, std::size_t element_bytes,
                  std::vector<std::byte> stored, std::size_t bytes, std::vector<std::byte>& out) {
  for (std::size_t k = filters.size(); k-- > 0;) {
    if (((skipped >> k) & 1U) != 0) continue;
    if (filters[k] == deflate_filter && !inflate_exactly(stored, out, bytes)) return false;
    if (filters[k] == shuffle_filter) unshuffle(stored, out, element_bytes);
    std::swap(stored, out);
  }
  std::swap(stored, out);
  return out.size() == bytes;
}

std::vector<std::byte> encode_chunk(std::span<const std::byte> chunk, std::size_t element_bytes, int level) {
  const std::size_t elements = chunk.size() / element_bytes;
  std::vector<std::byte> shuffled(chunk.begin(), chunk.end());
  for (std::size_t byte = 0; byte < element_bytes; ++byte) {
    std::byte* to = shuffled.data() + byte * elements;
    for (std::size_t i = 0; i < elements; ++i) to[i] = chunk[i * element_bytes + byte];
  }
  uLongf size = compressBound(shuffled.size());
  std::vector<std::byte> stored(size);
  if (compress2(reinterpret_cast<Bytef*>(stored.data()), &size, reinterpret_cast<const Bytef*>(shuffled.data()),
                shuffled.size(), level) != Z_OK)
    throw std::bad_alloc();  // the bound is large enough and the level is valid: memory is all that can be missing
  stored.resize(size);
  return stored;
}

void copy_intersection(std::span<const std::int64_t> chunk_at, std::span<const std::int64_t> chunk_shape,
                       const std::byte* chunk, std::span<const std::int64_t> slab_at,
                       std::span<const std::int64_t> slab_shape, std::byte* slab, std::size_t element_bytes) {
  const std::int64_t begin = std::max(chunk_at[0], slab_at[0]);
  const std::int64_t end = std::min(chunk_at[0] + chunk_shape[0], slab_at[0] + slab_shape[0]);
  if (begin >= end) return;
  auto chunk_row = static_cast<std::int64_t>(element_bytes), slab_row = static_cast<std::int64_t>(element_bytes);
  for (std::size_t axis = 1; axis < chunk_shape.size(); ++axis) {
    chunk_row *= chunk_shape[axis];
    slab_row *= slab_shape[axis];
  }
  const std::byte* from = chunk + (begin - chunk_at[0]) * chunk_row;
  std::byte* to = slab + (begin - slab_at[0]) * slab_row;
  if (chunk_shape.size() == 1) {
    std::memcpy(to, from, static_cast<std::size_t>(end - begin) * element_bytes);
    return;
  }
  for (std::int64_t i = begin; i < end; ++i, from += chunk_row, to += slab_row)
    copy_intersection(chunk_at.subspan(1), chunk_shape.subspan(1), from, slab_at.subspan(1), slab_shape.subspan(1), to,
                      element_bytes);
}

}  // namespace kvreplay
