#include "core/trace/tensor_reading_internal.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <vector>

#include "core/base/error.h"
#include "core/base/parallel.h"
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

constexpr std::int64_t piece_bytes = std::int64_t{1} << 20;

// Reads a slice as float32 and finds the first element of it that is NaN or infinite.
class FloatReader {
 public:
  FloatReader(const Source& source, const StoredTensor& stored, const Slab& slab, bool check_finite)
      : source_(source), stored_(stored), slab_(slab), check_finite_(check_finite) {}

  // Gives the index of that element; -1: there is none.
  std::int64_t read(float* target) {
    const std::int64_t all = slab_.count[0] * slab_.count[1] * slab_.count[2];
    if (can_be_split() && all * element_bytes() >= 2 * piece_bytes) {
      read_side_by_side(target);
    } else {
      std::int64_t done = 0;
      source_.read(stored_.node, slab_.file_start(), slab_.file_count(), [&](std::span<const std::byte> piece) {
        convert(piece.data(), static_cast<std::int64_t>(piece.size()) / element_bytes(), target, done);
        done += static_cast<std::int64_t>(piece.size()) / element_bytes();
      });
    }
    return first_bad_ == all_finite ? -1 : first_bad_.load();
  }

 private:
  static constexpr std::int64_t all_finite = std::numeric_limits<std::int64_t>::max();

  std::int64_t element_bytes() const { return static_cast<std::int64_t>(element_size(stored_.type)); }

  // Whether whole rows of one head can be read without decoding any chunk twice.
  bool can_be_split() const {
    if (!source_.reads_side_by_side()) return false;
    const auto& chunk = stored_.info.chunk;
    if (stored_.info.filters.empty() || chunk.empty()) return true;
    return chunk.back() >= stored_.shape[2] && (slab_.flat || chunk.front() == 1);
  }

  // Pieces of about a MiB, each read, converted and checked by one thread while it is in its cache.
  void read_side_by_side(float* target) {
    const std::int64_t rows = slab_.count[1], columns = slab_.count[2];
    const auto& chunk = stored_.info.chunk;
    std::int64_t each = std::clamp<std::int64_t>(piece_bytes / (columns * element_bytes()), 1, rows);
    const std::int64_t chunk_rows = chunk.empty() ? 1 : chunk[chunk.size() - 2];
    // From chunk to chunk, also where the slice does not begin with one.
    const std::int64_t before = slab_.start[1] % chunk_rows;
    each = (each + chunk_rows - 1) / chunk_rows * chunk_rows;
    const std::int64_t pieces = (before + rows + each - 1) / each;
    parallel_for(slab_.count[0] * pieces, 1, [&](std::int64_t begin, std::int64_t end) {
      std::vector<std::byte> stored;
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t head = i / pieces, first = std::max<std::int64_t>(0, i % pieces * each - before);
        const std::int64_t last = std::min(rows, (i % pieces + 1) * each - before);
        const Slab part{{slab_.start[0] + head, slab_.start[1] + first, 0}, {1, last - first, columns}, slab_.flat};
        stored.resize(static_cast<std::size_t>((last - first) * columns * element_bytes()));
        source_.read_into(stored_.node, part.file_start(), part.file_count(), stored.data());
        convert(stored.data(), (last - first) * columns, target, (head * rows + first) * columns);
      }
    });
  }

  // Elements of the slice from number `at` on.
  void convert(const std::byte* from, std::int64_t count, float* target, std::int64_t at) {
    const auto n = static_cast<std::size_t>(count);
    to_float32(stored_.type, from, target + at, n);
    const std::size_t bad = check_finite_ ? first_not_finite(target + at, n) : n;
    if (bad == n) return;
    std::int64_t known = first_bad_;
    const std::int64_t found = at + static_cast<std::int64_t>(bad);
    while (found < known && !first_bad_.compare_exchange_weak(known, found)) {
    }
  }

  const Source& source_;
  const StoredTensor& stored_;
  const Slab& slab_;
  const bool check_finite_;
  std::atomic<std::int64_t> first_bad_{all_finite};
};

}  // namespace

Tensor<float, 3> read_stored_tensor(const Source& source, const StoredTensor& stored, IndexRange heads, IndexRange rows,
                                    bool check_finite) {
  const std::string where = place(source, stored.node);
  const Slab slab = slab_of(stored, heads, rows, where);
  Tensor<float, 3> out(slab.count);
  if (out.size() == 0) return out;
  const std::int64_t bad = FloatReader(source, stored, slab, check_finite).read(out.data());
  if (bad >= 0)
    throw Error(where, "holds a NaN or an infinity at " + element_name(bad, slab.start, slab.count, slab.flat),
                "the capture that made it went wrong; capture it again");
  return out;
}

void read_stored_bytes(const Source& source, const StoredTensor& stored, IndexRange heads, IndexRange rows, std::byte* out) {
  const Slab slab = slab_of(stored, heads, rows, place(source, stored.node));
  if (slab.count[0] * slab.count[1] * slab.count[2] > 0)
    source.read_into(stored.node, slab.file_start(), slab.file_count(), out);
}

}  // namespace kvreplay
