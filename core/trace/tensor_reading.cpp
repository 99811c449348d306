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

}  // namespace

Tensor<float, 3> read_stored_tensor(const Source& source, const StoredTensor& stored, IndexRange heads, IndexRange rows,
                                    bool check_finite) {
  const std::string where = place(source, stored.node);
  heads = resolve(heads, stored.shape[0], where, "heads");
  rows = resolve(rows, stored.shape[1], where, "rows");
  const std::array<std::int64_t, 3> start = {heads.begin, rows.begin, 0};
  const std::array<std::int64_t, 3> count = {heads.end - heads.begin, rows.end - rows.begin, stored.shape[2]};
  // Two-dimensional datasets have one "head".
  const bool flat = stored.info.shape.size() == 2;
  Tensor<float, 3> out(count);
  if (out.size() == 0) return out;
  float* target = out.data();
  std::int64_t done = 0;
  const std::size_t skipped = flat ? 1 : 0;
  const std::span<const std::int64_t> file_start(start.data() + skipped, 3 - skipped),
      file_count(count.data() + skipped, 3 - skipped);
  source.read(stored.node, file_start, file_count, [&](std::span<const std::byte> piece) {
    const std::size_t n = piece.size() / element_size(stored.type);
    to_float32(stored.type, piece.data(), target + done, n);
    const std::size_t bad = check_finite ? first_not_finite(target + done, n) : n;
    if (bad < n)
      throw Error(where,
                  "holds a NaN or an infinity at " + element_name(done + static_cast<std::int64_t>(bad), start, count, flat),
                  "the capture that made it went wrong; capture it again");
    done += static_cast<std::int64_t>(n);
  });
  return out;
}

}  // namespace kvreplay
