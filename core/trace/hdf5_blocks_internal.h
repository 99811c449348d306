// HDF5's metadata as bytes: bounded reads of blocks, their checksums, and the messages of an object header. Internal to
// core/trace. After the HDF5 file format specification, version 3. Offsets and lengths have 8 bytes, as HDF5 writes them
// unless told otherwise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <span>
#include <string_view>
#include <vector>

namespace kvreplay::blocks {

// A block is not what it should be, or is of a version that is not known here.
struct NotUnderstood : std::exception {};

inline void expect(bool holds) {
  if (!holds) throw NotUnderstood{};
}

constexpr std::uint64_t undefined_address = ~std::uint64_t{0};

// Takes a block apart from its beginning. Throws NotUnderstood where it ends too early.
class Fields {
 public:
  explicit Fields(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::uint64_t number(std::size_t bytes);  // little-endian, of up to 8 bytes
  std::uint64_t address() { return number(8); }
  void signature(std::string_view text);  // must be there
  std::span<const std::byte> take(std::size_t bytes);
  std::size_t left() const { return bytes_.size(); }

 private:
  std::span<const std::byte> bytes_;
};

class File {
 public:
  File(int file, std::int64_t bytes) : file_(file), bytes_(static_cast<std::uint64_t>(bytes)) {}

  bool holds(std::uint64_t offset, std::uint64_t bytes) const { return offset <= bytes_ && bytes <= bytes_ - offset; }
  std::uint64_t bytes() const { return bytes_; }
  // Throws NotUnderstood where the file does not hold them.
  std::vector<std::byte> read(std::uint64_t offset, std::uint64_t bytes) const;
  // A block whose last 4 bytes are the checksum of the others; gives the others.
  std::vector<std::byte> read_checked(std::uint64_t offset, std::uint64_t bytes) const;

 private:
  int file_;
  std::uint64_t bytes_;
};

// Jenkins' lookup3 (hashlittle, from 0), the checksum of every block since HDF5 1.8.
std::uint32_t metadata_checksum(std::span<const std::byte> bytes);

// The contents of the object's data layout message, the object header beginning at `object`.
std::vector<std::byte> layout_message(const File& file, std::uint64_t object);

}  // namespace kvreplay::blocks
