#include "core/trace/tensor_reading_internal.h"

#include <array>

#include "core/base/error.h"
#include "core/trace/finite_internal.h"

namespace kvreplay {
namespace {

IndexRange resolve(IndexRange range, std::int64_t size, const std::string& where, const char* axis) {
  if (range.end < 0) range.end = size;
  if (range.begin < 0 || range.begin > range.end || range.end > size)
    throw Error(where, std::string("has ") + std::to_string(size) + " " + axis + ", and " + std::to_string(range.begin) +
                           " to " + std::to_string(range.end) + " were asked for");
  return range;
}

// Row and column of element `index` of a slice, for messages.
std::string element_name(std::int64_t index, const std::array<std::int64_t, 3>& from,
                         const std::array<std::int64_t, 3>& count, bool flat) {
  const std::int64_t column = from[2] + index % count[2];
  const std::int64_t row = from[1] + index / count[2] % count[1];
  const std::int64_t head = from[0] + index / count[2] / count[1];
  const std::string tail = std::to_string(row) + ", " + std::to_string(column) + "]";
  return flat ? "[" + tail : "[" + std::to_string(head) + ", " + tail;
}

// Where a slice lies in its dataset. Two-dimensional datasets have one "head".
struct Slab {
  std::array<std::int64_t, 3> start, count;
  bool flat;

  std::span<const std::int64_t> file_start() const { return {start.data() + skipped(), 3 - skipped()}; }
  std::span<const std::int64_t> file_count() const { return {count.data() + skipped(), 3 - skipped()}; }

 private:
  std::size_t skipped() const { return flat ? 1 : 0; }
};

Slab slab_of(const StoredTensor& stored, IndexRange heads, IndexRange rows, const std::string& where) {
  heads = resolve(heads, stored.shape[0], where, "heads");
  rows = resolve(rows, stored.shape[1], where, "rows");
  return {{heads.begin, rows.begin, 0},
          {heads.end - heads.begin, rows.end - rows.begin, stored.shape[2]},
          stored.info.shape.size() == 2};
}

}  // namespace

Tensor<float, 3> read_stored_tensor(const Source& source, const StoredTensor& stored, IndexRange heads, IndexRange rows,
                                    bool check_finite) {
  const std::string where = place(source, stored.node);
  const Slab slab = slab_of(stored, heads, rows, where);
  Tensor<float, 3> out(slab.count);
  if (out.size() == 0) return out;
  float* target = out.data();
  std::int64_t done = 0;
  source.read(stored.node, slab.file_start(), slab.file_count(), [&](std::span<const std::byte> piece) {
    const std::size_t n = piece.size() / element_size(stored.type);
    to_float32(stored.type, piece.data(), target + done, n);
    const std::size_t bad = check_finite ? first_not_finite(target + done, n) : n;
    if (bad < n)
      throw Error(where,
                  "holds a NaN or an infinity at " +
                      element_name(done + static_cast<std::int64_t>(bad), slab.start, slab.count, slab.flat),
                  "the capture that made it went wrong; capture it again");
    done += static_cast<std::int64_t>(n);
  });
  return out;
}

void read_stored_bytes(const Source& source, const StoredTensor& stored, IndexRange heads, IndexRange rows, std::byte* out) {
  const Slab slab = slab_of(stored, heads, rows, place(source, stored.node));
  if (slab.count[0] * slab.count[1] * slab.count[2] > 0)
    source.read_into(stored.node, slab.file_start(), slab.file_count(), out);
}

}  // namespace kvreplay
