#include "core/trace/chunk_places_internal.h"

#include <algorithm>
#include <array>
#include <bit>
#include <new>

#include "core/trace/hdf5_blocks_internal.h"

namespace kvreplay {
namespace {

using blocks::expect;
using blocks::Fields;
using blocks::undefined_address;

constexpr std::uint64_t most_chunks = std::uint64_t{1} << 22;
constexpr int most_levels = 16;  // of a B-tree, whose nodes have dozens of children

struct Entry {
  std::uint64_t offset = undefined_address, bytes = 0;
  std::uint32_t skipped = 0;
};

std::uint64_t product(const std::vector<std::int64_t>& values) {
  std::uint64_t n = 1;
  for (const auto v : values) {
    expect(v >= 0 && (v == 0 || n <= (std::uint64_t{1} << 60) / static_cast<std::uint64_t>(v)));
    n *= static_cast<std::uint64_t>(v);
  }
  return n;
}

class Finder {
 public:
  Finder(int file, std::int64_t file_bytes, const DatasetInfo& info, const std::vector<std::int64_t>& most)
      : file_(file, file_bytes), info_(info), most_(most), filtered_(!info.filters.empty()) {}

  ChunkPlaces find(std::uint64_t object) {
    expect(!info_.shape.empty() && most_.size() == info_.shape.size());
    const std::vector<std::byte> layout = blocks::layout_message(file_, object);
    Fields fields(layout);
    const std::uint64_t version = fields.number(1), kind = fields.number(1);
    expect(version == 3 || version == 4);
    prepare_places();
    if (info_.chunk.empty()) {
      expect(kind == 1 && !filtered_);
      const std::uint64_t address = fields.address();
      if (address != undefined_address) set(0, {address, chunk_bytes_, 0});
    } else {
      expect(kind == 2);
      version == 3 ? read_old_layout(fields) : read_layout(fields);
    }
    return std::move(places_);
  }

 private:
  std::size_t rank() const { return info_.shape.size(); }

  void prepare_places() {
    places_.chunk = info_.chunk.empty() ? info_.shape : info_.chunk;
    expect(places_.chunk.size() == rank());
    chunk_bytes_ = product(places_.chunk) * static_cast<std::uint64_t>(info_.type.size);
    for (std::size_t axis = 0; axis < rank(); ++axis) {
      expect(places_.chunk[axis] > 0);
      places_.count.push_back((info_.shape[axis] + places_.chunk[axis] - 1) / places_.chunk[axis]);
    }
    const std::uint64_t chunks = product(places_.count);
    expect(chunks <= most_chunks);
    places_.offset.assign(chunks, ChunkPlaces::not_written);
    if (filtered_) places_.bytes.assign(chunks, 0), places_.skipped.assign(chunks, 0);
  }

  // Of a chunk below the shape.
  void set(std::uint64_t index, const Entry& entry) {
    if (entry.offset == undefined_address) return;
    // A filter may make a chunk a little larger, not much.
    expect(file_.holds(entry.offset, entry.bytes) && entry.bytes > 0);
    expect(filtered_ ? entry.bytes <= 2 * chunk_bytes_ + 4096 : entry.bytes == chunk_bytes_);
    places_.offset[index] = entry.offset;
    if (filtered_) places_.bytes[index] = entry.bytes, places_.skipped[index] = entry.skipped;
  }

  // Calls visit(chunk's number below the shape, its coordinates in chunks) for each.
  template <class Visit>
  void for_each_chunk(const Visit& visit) const {
    std::vector<std::int64_t> at(rank(), 0);
    for (std::uint64_t index = 0; index < places_.offset.size(); ++index) {
      visit(index, at);
      for (std::size_t axis = rank(); axis-- > 0;) {
        if (++at[axis] < places_.count[axis]) break;
        at[axis] = 0;
      }
    }
  }

  // ---- version 3: one B-tree -------------------------------------------------------------------------------------------

  void read_old_layout(Fields& fields) {
    expect(fields.number(1) == rank() + 1);
    const std::uint64_t tree = fields.address();
    for (const auto extent : places_.chunk) expect(fields.number(4) == static_cast<std::uint64_t>(extent));
    expect(fields.number(4) == static_cast<std::uint64_t>(info_.type.size));
    if (tree != undefined_address) read_tree(tree, -1);
  }

  // level: that the node must have; -1: any, at the root. Children are one level lower, so that no path goes in circles, and
  // no tree is high. Nodes of a sound file lie in bytes of their own: those of one that leads to the same nodes again and
  // again add up to more than the file.
  void read_tree(std::uint64_t node, int level) {
    const std::vector<std::byte> head = file_.read(node, 24);
    Fields fields(head);
    fields.signature("TREE");
    expect(fields.number(1) == 1);
    const int own_level = static_cast<int>(fields.number(1));
    expect(level < 0 ? own_level < most_levels : own_level == level);
    const std::uint64_t entries = fields.number(2), key_bytes = 8 + 8 * (rank() + 1);
    tree_bytes_ += 24 + entries * (key_bytes + 8);
    expect(tree_bytes_ <= file_.bytes());
    const std::vector<std::byte> body = file_.read(node + 24, entries * (key_bytes + 8));
    Fields list(body);
    for (std::uint64_t i = 0; i < entries; ++i) {
      Fields key(list.take(key_bytes));
      const std::uint64_t child = list.address();
      if (own_level > 0) {
        read_tree(child, own_level - 1);
        continue;
      }
      const std::uint64_t bytes = key.number(4);
      const auto skipped = static_cast<std::uint32_t>(key.number(4));
      std::uint64_t index = 0;
      bool below_shape = true;
      for (std::size_t axis = 0; axis < rank(); ++axis) {
        const std::uint64_t at = key.number(8), extent = static_cast<std::uint64_t>(places_.chunk[axis]);
        expect(at % extent == 0);
        const auto count = static_cast<std::uint64_t>(places_.count[axis]);
        below_shape = below_shape && at / extent < count;
        index = index * count + at / extent;
      }
      if (below_shape) set(index, {child, bytes, skipped});
    }
  }

  // ---- version 4: one of five indices ------------------------------------------------------------------------------------

  void read_layout(Fields& fields) {
    const std::uint64_t flags = fields.number(1);
    expect(fields.number(1) == rank() + 1);
    const std::size_t extent_bytes = fields.number(1);
    for (const auto extent : places_.chunk) expect(fields.number(extent_bytes) == static_cast<std::uint64_t>(extent));
    expect(fields.number(extent_bytes) == static_cast<std::uint64_t>(info_.type.size));
    // Chunks at the edges that no filter was applied to say so nowhere else.
    expect(!filtered_ || (flags & 1) == 0);
    enum : std::uint64_t { single = 1, implicit = 2, fixed_array = 3, extensible_array = 4 };
    switch (fields.number(1)) {
      case single: {
        Entry entry{0, chunk_bytes_, 0};
        expect(filtered_ == ((flags & 2) != 0) && places_.offset.size() <= 1);
        if (filtered_) entry.bytes = fields.number(8), entry.skipped = static_cast<std::uint32_t>(fields.number(4));
        entry.offset = fields.address();
        if (!places_.offset.empty()) set(0, entry);
        break;
      }
      case implicit: read_implicit(fields.address()); break;
      case fixed_array: {
        fields.number(1);  // the array's own header says it too
        const std::uint64_t header = fields.address();
        if (header != undefined_address) read_fixed_array(header);
        break;
      }
      case extensible_array: {
        fields.take(5);
        const std::uint64_t header = fields.address();
        if (header != undefined_address) read_extensible_array(header);
        break;
      }
      default: throw blocks::NotUnderstood{};
    }
  }

  // How far apart chunks that follow each other along an axis are in the index, which numbers them by the largest shape;
  // an axis without limit (at most one) comes first. Gives how many chunks the shape reaches into.
  std::uint64_t number_chunks() {
    std::uint64_t step = 1;
    int unlimited = -1;
    step_.assign(rank(), 0);
    for (std::size_t axis = rank(); axis-- > 0;) {
      if (most_[axis] < 0) {
        expect(unlimited < 0);
        unlimited = static_cast<int>(axis);
        continue;
      }
      expect(most_[axis] > 0);
      const auto count = static_cast<std::uint64_t>((most_[axis] - 1) / places_.chunk[axis] + 1);
      step_[axis] = step;
      expect(step <= most_chunks && count <= most_chunks);
      step *= count;
    }
    expect(step <= most_chunks);
    if (unlimited >= 0) step_[static_cast<std::size_t>(unlimited)] = step;
    std::uint64_t reach = places_.offset.empty() ? 0 : 1;
    for (std::size_t axis = 0; axis < rank() && reach > 0; ++axis)
      reach += static_cast<std::uint64_t>(places_.count[axis] - 1) * step_[axis];
    expect(reach <= most_chunks);
    return reach;
  }
  std::uint64_t number_of(const std::vector<std::int64_t>& at) const {
    std::uint64_t number = 0;
    for (std::size_t axis = 0; axis < rank(); ++axis) number += static_cast<std::uint64_t>(at[axis]) * step_[axis];
    return number;
  }

  void read_implicit(std::uint64_t first) {
    expect(!filtered_);
    number_chunks();
    if (first == undefined_address) return;
    expect(first <= file_.bytes());
    for_each_chunk([&](std::uint64_t index, const std::vector<std::int64_t>& at) {
      const std::uint64_t number = number_of(at);
      expect(number <= file_.bytes() / chunk_bytes_);
      set(index, {first + number * chunk_bytes_, chunk_bytes_, 0});
    });
  }

  void set_all(const std::vector<Entry>& entries) {
    for_each_chunk([&](std::uint64_t index, const std::vector<std::int64_t>& at) {
      if (const std::uint64_t number = number_of(at); number < entries.size()) set(index, entries[number]);
    });
  }

  // What follows the signature of every block of an array.
  void expect_kind(Fields& fields) const {
    expect(fields.number(1) == 0);                      // version
    expect(fields.number(1) == (filtered_ ? 1U : 0U));  // what the elements are
  }
  void expect_element_bytes(std::uint64_t bytes) {
    expect(filtered_ ? bytes > 12 && bytes <= 20 : bytes == 8);
    element_bytes_ = bytes;
  }
  void append(Fields& fields, std::uint64_t count, std::vector<Entry>& entries) const {
    expect(entries.size() + count <= 4 * most_chunks);
    for (std::uint64_t i = 0; i < count; ++i) {
      Entry entry{fields.address(), chunk_bytes_, 0};
      if (filtered_) {
        entry.bytes = fields.number(element_bytes_ - 12);
        entry.skipped = static_cast<std::uint32_t>(fields.number(4));
      }
      entries.push_back(entry);
    }
  }
  // Elements of pages that follow each other, each with its checksum. written: which of them are in the file at all.
  template <class Written>
  void append_pages(std::uint64_t at, std::uint64_t count, std::uint64_t page, const Written& written,
                    std::vector<Entry>& entries) const {
    for (std::uint64_t done = 0; done < count; done += page) {
      const std::uint64_t now = std::min(page, count - done);
      if (written(done / page)) {
        const std::vector<std::byte> block = file_.read_checked(at, now * element_bytes_ + 4);
        Fields fields(block);
        append(fields, now, entries);
      } else {
        entries.resize(entries.size() + now);
      }
      at += page * element_bytes_ + 4;
    }
  }

  void read_fixed_array(std::uint64_t header) {
    const std::uint64_t reach = number_chunks();
    const std::vector<std::byte> head = file_.read_checked(header, 28);
    Fields fields(head);
    fields.signature("FAHD");
    expect_kind(fields);
    expect_element_bytes(fields.number(1));
    const std::uint64_t page_bits = fields.number(1), count = fields.number(8), block = fields.address();
    expect(page_bits < 32 && count >= reach && count <= most_chunks);
    if (block == undefined_address) return;
    const std::uint64_t page = std::uint64_t{1} << page_bits;
    const std::uint64_t pages = count > page ? (count + page - 1) / page : 0, marks = (pages + 7) / 8;
    const std::uint64_t prefix = 14 + marks, listed = pages > 0 ? 0 : count;
    const std::vector<std::byte> data = file_.read_checked(block, prefix + listed * element_bytes_ + 4);
    fields = Fields(data);
    fields.signature("FADB");
    expect_kind(fields);
    expect(fields.address() == header);
    const auto mark = fields.take(marks);
    std::vector<Entry> entries;
    append(fields, listed, entries);
    const auto written = [&](std::uint64_t p) { return (std::to_integer<unsigned>(mark[p / 8]) >> (7 - p % 8) & 1U) != 0; };
    if (pages > 0) append_pages(block + prefix + 4, count, page, written, entries);
    set_all(entries);
  }

  // ---- the extensible array --------------------------------------------------------------------------------------------
  //
  // A block of a few elements, then data blocks in groups ("super blocks") that double: group u has 2^(u/2) data blocks of
  // 2^((u+1)/2) times the smallest size. The index block has the addresses of the data blocks of the first groups and of the
  // super blocks of the others.

  struct ArrayHeader {
    std::uint64_t at, max_bits, in_index, smallest, pointers, page, used, index_block;
    std::uint64_t offset_bytes() const { return (max_bits + 7) / 8; }
  };

  ArrayHeader read_array_header(std::uint64_t at) {
    const std::vector<std::byte> head = file_.read_checked(at, 72);
    Fields fields(head);
    fields.signature("EAHD");
    expect_kind(fields);
    expect_element_bytes(fields.number(1));
    ArrayHeader array{};
    array.at = at;
    array.max_bits = fields.number(1);
    array.in_index = fields.number(1);
    array.smallest = fields.number(1);
    array.pointers = fields.number(1);
    const std::uint64_t page_bits = fields.number(1);
    fields.take(4 * 8);  // how many blocks there are
    array.used = fields.number(8);
    fields.number(8);
    array.index_block = fields.address();
    expect(array.max_bits <= 64 && page_bits < 32);
    expect(std::has_single_bit(array.smallest) && std::has_single_bit(array.pointers) && array.pointers > 1);
    array.page = std::uint64_t{1} << page_bits;
    return array;
  }

  void read_extensible_array(std::uint64_t header) {
    const std::uint64_t reach = number_chunks();
    const ArrayHeader array = read_array_header(header);
    if (array.index_block == undefined_address) return;
    const auto smallest_bits = static_cast<std::uint64_t>(std::bit_width(array.smallest) - 1);
    const auto pointer_bits = static_cast<std::uint64_t>(std::bit_width(array.pointers) - 1);
    expect(array.max_bits >= smallest_bits);
    const std::uint64_t groups = 1 + array.max_bits - smallest_bits, direct_groups = 2 * pointer_bits;
    expect(groups >= direct_groups && direct_groups < 32);
    const std::uint64_t direct_blocks = 2 * (array.pointers - 1);
    const std::vector<std::byte> index = file_.read_checked(
        array.index_block, 14 + array.in_index * element_bytes_ + 8 * (direct_blocks + groups - direct_groups) + 4);
    Fields fields(index);
    fields.signature("EAIB");
    expect_kind(fields);
    expect(fields.address() == header);
    std::vector<Entry> entries;
    append(fields, array.in_index, entries);
    const std::uint64_t needed = std::min(reach, array.used);
    for (std::uint64_t u = 0; u < groups && entries.size() < needed; ++u) {
      const std::uint64_t data_blocks = std::uint64_t{1} << (u / 2), elements = array.smallest << ((u + 1) / 2);
      if (u < direct_groups) {
        read_data_blocks(array, fields, data_blocks, elements, needed, entries);
        continue;
      }
      if (const std::uint64_t super = fields.address(); super != undefined_address) {
        read_super_block(array, super, data_blocks, elements, needed, entries);
      } else {
        expect(data_blocks * elements <= 2 * most_chunks);
        entries.resize(entries.size() + data_blocks * elements);
      }
    }
    set_all(entries);
  }

  void read_super_block(const ArrayHeader& array, std::uint64_t at, std::uint64_t data_blocks, std::uint64_t elements,
                        std::uint64_t needed, std::vector<Entry>& entries) const {
    const std::uint64_t pages = elements > array.page ? elements / array.page : 0;
    const std::uint64_t marks = data_blocks * ((pages + 7) / 8);
    const std::vector<std::byte> block = file_.read_checked(at, 14 + array.offset_bytes() + marks + 8 * data_blocks + 4);
    Fields fields(block);
    fields.signature("EASB");
    expect_kind(fields);
    expect(fields.address() == array.at);
    fields.take(array.offset_bytes() + marks);
    read_data_blocks(array, fields, data_blocks, elements, needed, entries);
  }

  // Pages of an extensible array are never cut short: their checksum stands at the end of each.
  static std::uint64_t whole_pages(std::uint64_t elements, std::uint64_t page) {
    return (elements + page - 1) / page * page;
  }

  // Their addresses come next in `addresses`. Pages that were never written fail their checksum.
  void read_data_blocks(const ArrayHeader& array, Fields& addresses, std::uint64_t data_blocks, std::uint64_t elements,
                        std::uint64_t needed, std::vector<Entry>& entries) const {
    expect(elements <= 2 * most_chunks);
    const bool paged = elements > array.page;
    for (std::uint64_t b = 0; b < data_blocks; ++b) {
      const std::uint64_t at = addresses.address();
      if (entries.size() >= needed) continue;
      if (at == undefined_address) {
        entries.resize(entries.size() + elements);
        continue;
      }
      const std::uint64_t prefix = 14 + array.offset_bytes();
      const std::vector<std::byte> block = file_.read_checked(at, prefix + (paged ? 0 : elements * element_bytes_) + 4);
      Fields fields(block);
      fields.signature("EADB");
      expect_kind(fields);
      expect(fields.address() == array.at);
      fields.take(array.offset_bytes());
      const std::uint64_t end = entries.size() + elements;
      if (!paged) append(fields, elements, entries);
      if (paged)
        append_pages(
            at + prefix + 4, whole_pages(std::min(elements, needed - entries.size()), array.page), array.page,
            [](std::uint64_t) { return true; }, entries);
      entries.resize(end);
    }
  }

  blocks::File file_;
  const DatasetInfo& info_;
  const std::vector<std::int64_t>& most_;
  const bool filtered_;
  std::uint64_t chunk_bytes_ = 0, element_bytes_ = 0, tree_bytes_ = 0;
  std::vector<std::uint64_t> step_;
  ChunkPlaces places_;
};

}  // namespace

std::optional<ChunkPlaces> find_chunks(int file, std::int64_t file_bytes, std::uint64_t object, const DatasetInfo& info,
                                       const std::vector<std::int64_t>& most) {
  try {
    return Finder(file, file_bytes, info, most).find(object);
  } catch (const blocks::NotUnderstood&) {
  } catch (const std::bad_alloc&) {
  }
  return std::nullopt;
}

}  // namespace kvreplay
