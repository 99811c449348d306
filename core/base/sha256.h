// SHA-256 (FIPS 180-4), fed in pieces. Uses the processor's SHA instructions where it has them.
//
//   Sha256 hash;
//   hash.update(data, size);
//   std::string name = hash.hex();   // 64 lower-case digits
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace kvreplay {

class Sha256 {
 public:
  void update(const void* data, std::size_t size);
  // The digest of everything given so far, as 64 hexadecimal digits. More may be added afterwards.
  std::string hex() const;

 private:
  std::array<std::uint32_t, 8> state_{0x6a09e667U, 0xbb67ae85U, 0x3c6ef372U, 0xa54ff53aU,
                                      0x510e527fU, 0x9b05688cU, 0x1f83d9abU, 0x5be0cd19U};
  std::array<unsigned char, 64> block_{};  // what does not fill a block yet
  std::size_t filled_ = 0;
  std::uint64_t total_ = 0;  // bytes
};

std::string sha256_hex(std::string_view data);
// Of a file's contents, read in pieces. Throws Error naming the file.
std::string sha256_of_file(const std::string& path);

}  // namespace kvreplay
