// Scores as integers that sort the same way, so that a plain integer selection settles ties and NaN.
#pragma once

#include <bit>
#include <cstdint>

namespace kvreplay {

// Larger for larger scores; NaN is the largest of all; -0 ties with +0.
inline std::uint32_t order_key(float score) {
  if (score != score) return 0xffffffffU;
  auto bits = std::bit_cast<std::uint32_t>(score);
  if (bits == 0x80000000U) bits = 0;
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

}  // namespace kvreplay
