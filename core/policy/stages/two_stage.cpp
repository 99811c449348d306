#include "core/policy/stages/two_stage.h"

#include <limits>

namespace kvreplay {

Array two_stage_scores(LayerWorkspace& layer, const Array& scores, std::int64_t first_column,
                       const std::vector<std::int64_t>& first, double epsilon) {
  Backend& backend = layer.backend();
  const std::int64_t heads = scores.dim(0), columns = scores.dim(1);
  std::vector<float> score = backend.download(scores);
  const std::vector<float> factor = backend.download(projected_value_norms(layer));
  for (std::int64_t h = 0; h < heads; ++h)
    for (std::int64_t c = 0; c < columns; ++c)
      score[static_cast<std::size_t>(h * columns + c)] =
          (score[static_cast<std::size_t>(h * columns + c)] + static_cast<float>(epsilon)) *
          factor[static_cast<std::size_t>(h * layer.candidates() + first_column + c)];
  const auto best = backend.select_top(scores, first);
  for (std::int64_t h = 0; h < heads; ++h)
    for (const std::int32_t c : best[static_cast<std::size_t>(h)])
      score[static_cast<std::size_t>(h * columns + c)] = std::numeric_limits<float>::max();
  return backend.upload({heads, columns}, score);
}

}  // namespace kvreplay
