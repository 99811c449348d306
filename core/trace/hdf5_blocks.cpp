#include "core/trace/hdf5_blocks_internal.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>

namespace kvreplay::blocks {
namespace {

constexpr std::uint64_t most_block_bytes = std::uint64_t{256} << 20;
constexpr std::size_t most_header_blocks = 64;
constexpr unsigned layout_type = 8, continuation_type = 16;

struct Block {
  std::uint64_t offset, bytes;
};

// The messages of one block of an object header, whose versions differ in what comes before each.
class HeaderBlock {
 public:
  HeaderBlock(bool old_form, bool ordered) : old_form_(old_form), ordered_(ordered) {}

  // True once the layout was found. Adds the blocks in which the header goes on.
  bool search(std::span<const std::byte> bytes, std::vector<std::byte>& layout, std::vector<Block>& more) const {
    Fields fields(bytes);
    const std::size_t prefix = old_form_ ? 8 : ordered_ ? 6 : 4;
    while (fields.left() >= prefix) {
      const auto type = static_cast<unsigned>(fields.number(old_form_ ? 2 : 1));
      const std::size_t size = fields.number(2);
      fields.take(prefix - (old_form_ ? 4 : 3));  // flags, reserved bytes, creation order
      const auto message = fields.take(size);
      if (type == layout_type) {
        layout.assign(message.begin(), message.end());
        return true;
      }
      if (type == continuation_type) {
        Fields where(message);
        const std::uint64_t offset = where.address(), length = where.number(8);
        more.push_back({offset, length});
      }
    }
    return false;
  }

 private:
  bool old_form_, ordered_;
};

struct Header {
  HeaderBlock form;
  std::vector<std::byte> first;  // messages of the first block
  bool checked;                  // later blocks have a signature and a checksum
};

Header read_header(const File& file, std::uint64_t object) {
  const std::vector<std::byte> start = file.read(object, 16);
  Fields fields(start);
  if (fields.number(1) == 1) {
    fields.take(7);  // reserved, how many messages, how many links
    const std::uint64_t bytes = fields.number(4);
    return {HeaderBlock(true, false), file.read(object + 16, bytes), false};
  }
  fields = Fields(start);
  fields.signature("OHDR");
  expect(fields.number(1) == 2);
  const std::uint64_t flags = fields.number(1);
  const std::uint64_t before_size = 6 + ((flags & 0x20) != 0 ? 16 : 0) + ((flags & 0x10) != 0 ? 4 : 0);
  const std::uint64_t size_bytes = std::uint64_t{1} << (flags & 3);
  const std::vector<std::byte> size_field = file.read(object + before_size, size_bytes);
  const std::uint64_t messages = Fields(size_field).number(size_bytes);
  const std::uint64_t prefix = before_size + size_bytes;
  expect(messages <= file.bytes());
  std::vector<std::byte> all = file.read_checked(object, prefix + messages + 4);
  all.erase(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(prefix));
  return {HeaderBlock(false, (flags & 4) != 0), std::move(all), true};
}

}  // namespace

std::uint64_t Fields::number(std::size_t bytes) {
  expect(bytes <= 8);
  std::uint64_t value = 0;
  const auto taken = take(bytes);
  if (bytes == 8 && std::endian::native == std::endian::little) {  // nearly all there are
    std::memcpy(&value, taken.data(), 8);
    return value;
  }
  for (std::size_t i = bytes; i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(taken[i]);
  return value;
}

void Fields::signature(std::string_view text) {
  const auto taken = take(text.size());
  expect(std::memcmp(taken.data(), text.data(), text.size()) == 0);
}

std::span<const std::byte> Fields::take(std::size_t bytes) {
  expect(bytes <= bytes_.size());
  const auto taken = bytes_.first(bytes);
  bytes_ = bytes_.subspan(bytes);
  return taken;
}

std::vector<std::byte> File::read(std::uint64_t offset, std::uint64_t bytes) const {
  expect(holds(offset, bytes) && bytes <= most_block_bytes);
  std::vector<std::byte> block(bytes);
  for (std::size_t done = 0; done < block.size();) {
    const ssize_t got = pread(file_, block.data() + done, block.size() - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    expect(got > 0);
    done += static_cast<std::size_t>(got);
  }
  return block;
}

std::vector<std::byte> File::read_checked(std::uint64_t offset, std::uint64_t bytes) const {
  expect(bytes >= 4);
  std::vector<std::byte> block = read(offset, bytes);
  const std::uint64_t stored = Fields(std::span(block).last(4)).number(4);
  block.resize(block.size() - 4);
  expect(stored == metadata_checksum(block));
  return block;
}

std::uint32_t metadata_checksum(std::span<const std::byte> bytes) {
  std::uint32_t a = 0xdeadbeefU + static_cast<std::uint32_t>(bytes.size()), b = a, c = a;
  const auto word = [&](std::size_t at) {
    std::uint32_t value = 0;
    if (std::endian::native == std::endian::little && at + 4 <= bytes.size()) {
      std::memcpy(&value, bytes.data() + at, 4);
      return value;
    }
    for (std::size_t i = 0; i < 4 && at + i < bytes.size(); ++i)
      value |= std::to_integer<std::uint32_t>(bytes[at + i]) << (8 * i);
    return value;
  };
  const auto add = [&](std::size_t at) {
    a += word(at);
    b += word(at + 4);
    c += word(at + 8);
  };
  if (bytes.empty()) return c;
  std::size_t at = 0;
  for (; bytes.size() - at > 12; at += 12) {
    add(at);
    a -= c, a ^= std::rotl(c, 4), c += b;
    b -= a, b ^= std::rotl(a, 6), a += c;
    c -= b, c ^= std::rotl(b, 8), b += a;
    a -= c, a ^= std::rotl(c, 16), c += b;
    b -= a, b ^= std::rotl(a, 19), a += c;
    c -= b, c ^= std::rotl(b, 4), b += a;
  }
  add(at);
  c ^= b, c -= std::rotl(b, 14);
  a ^= c, a -= std::rotl(c, 11);
  b ^= a, b -= std::rotl(a, 25);
  c ^= b, c -= std::rotl(b, 16);
  a ^= c, a -= std::rotl(c, 4);
  b ^= a, b -= std::rotl(a, 14);
  c ^= b, c -= std::rotl(b, 24);
  return c;
}

std::vector<std::byte> layout_message(const File& file, std::uint64_t object) {
  const Header header = read_header(file, object);
  std::vector<std::byte> layout;
  std::vector<Block> more;
  if (header.form.search(header.first, layout, more)) return layout;
  for (std::size_t next = 0; next < more.size(); ++next) {
    expect(next < most_header_blocks);
    std::vector<std::byte> block = header.checked ? file.read_checked(more[next].offset, more[next].bytes)
                                                  : file.read(more[next].offset, more[next].bytes);
    Fields fields(block);
    if (header.checked) fields.signature("OCHK");
    if (header.form.search(fields.take(fields.left()), layout, more)) return layout;
  }
  throw NotUnderstood{};
}

}  // namespace kvreplay::blocks
