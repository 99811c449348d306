// Where the first NaN or infinity is. Internal to core/trace.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace kvreplay {

// Index of the first NaN or infinity; `count` when there is none. Whole blocks are tested without a branch, so the
// compiler uses vectors: about as fast as the values can be fetched from cache.
inline std::size_t first_not_finite(const float* values, std::size_t count) {
  constexpr std::uint32_t exponent = 0x7f800000U;
  constexpr std::size_t block = 256;
  const auto bad = [&](std::size_t i) { return (std::bit_cast<std::uint32_t>(values[i]) & exponent) == exponent; };
  std::size_t i = 0;
  for (; i + block <= count; i += block) {
    std::uint32_t any = 0;
    for (std::size_t k = 0; k < block; ++k) any |= bad(i + k) ? 1U : 0U;
    if (any != 0) break;
  }
  while (i < count && !bad(i)) ++i;
  return i;
}

}  // namespace kvreplay
