#include "core/backend/evaluation.h"

#include <algorithm>

namespace kvreplay {

std::array<std::int64_t, num_regions + 1> region_bounds(std::int64_t prompt, std::int64_t tokens) {
  const std::int64_t sinks = std::min<std::int64_t>(4, prompt);
  const std::int64_t recent = std::max(sinks, prompt - 32);
  const std::int64_t between = recent - sinks;
  return {0, sinks, sinks + between / 3, sinks + 2 * between / 3, recent, prompt, tokens};
}

}  // namespace kvreplay
