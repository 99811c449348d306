// CRC-32C (Castagnoli, as in iSCSI and ext4): guards each chunk of a trace against silent damage.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvreplay {

// The checksum of `previous`'s bytes followed by these. crc32c("123456789", 9) is 0xe3069283. Uses the processor's
// instruction where it has one.
std::uint32_t crc32c(const void* data, std::size_t size, std::uint32_t previous = 0);

// The same by table, on any processor: what the fast form is tested against.
std::uint32_t crc32c_plain(const void* data, std::size_t size, std::uint32_t previous = 0);

}  // namespace kvreplay
