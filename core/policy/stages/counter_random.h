// A counter-based generator: the number for (seed, layer, head, position) depends on nothing else, so results are the same
// in any order and on any backend.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace kvreplay {

// SplitMix64's finaliser.
inline std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

inline std::uint64_t random_number(std::uint64_t seed, std::uint64_t layer, std::uint64_t head, std::uint64_t position) {
  return mix(mix(mix(mix(seed) ^ layer) ^ head) ^ position);
}

// Uniform in [0, 1), 53 bits.
inline double random_uniform(std::uint64_t seed, std::uint64_t layer, std::uint64_t head, std::uint64_t position) {
  return static_cast<double>(random_number(seed, layer, head, position) >> 11) * 0x1p-53;
}

// Standard normal, by Box and Muller.
inline double random_normal(std::uint64_t seed, std::uint64_t layer, std::uint64_t head, std::uint64_t position) {
  const double radius = std::sqrt(-2 * std::log(1 - random_uniform(seed, layer, head, 2 * position)));
  return radius * std::cos(2 * std::numbers::pi * random_uniform(seed, layer, head, 2 * position + 1));
}

}  // namespace kvreplay
