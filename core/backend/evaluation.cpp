#include "core/backend/evaluation.h"

#include <algorithm>

namespace kvreplay {

std::array<std::int64_t, num_regions + 1> region_bounds(std::int64_t prompt, std::int64_t tokens) {
  const std::int64_t sinks = std::min<std::int64_t>(4, prompt);
  const std::int64_t recent = std::max(sinks, prompt - 32);
  const std::int64_t between = recent - sinks;
  return {0, sinks, sinks + between / 3, sinks + 2 * between / 3, recent, prompt, tokens};
}

Tensor<std::int32_t, 2> evicted_at_of(const KeptSets& kept, std::int64_t first_candidate, std::int64_t prompt,
                                      std::int64_t tokens) {
  Tensor<std::int32_t, 2> evicted_at({kept.heads(), tokens}, -1);
  for (std::int64_t h = 0; h < kept.heads(); ++h) {
    std::int32_t* row = evicted_at.data() + h * tokens;
    std::fill(row + first_candidate, row + prompt, 0);
    for (const std::int32_t position : kept[h]) row[position] = -1;
  }
  return evicted_at;
}

}  // namespace kvreplay
