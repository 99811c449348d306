#include <algorithm>

#include "core/policy/stages/kvpress.h"

namespace kvreplay {
namespace {

class PerChunkSelection final : public Selection {
 public:
  explicit PerChunkSelection(int chunk) : chunk_(chunk) {}

  std::vector<std::vector<std::int32_t>> select(const SelectionContext& context) const override {
    Backend& backend = context.layer.backend();
    const std::int64_t heads = context.scores.dim(0), columns = context.scores.dim(1);
    const std::vector<float> scores = backend.download(context.scores);
    std::vector<std::vector<std::int32_t>> kept(static_cast<std::size_t>(heads));
    for (std::int64_t h = 0; h < heads; ++h) {
      const double share = 1 - kvpress_ratio(columns, context.capacity[static_cast<std::size_t>(h)]);
      for (std::int64_t first = 0; first < columns; first += chunk_) {
        const std::int64_t length = std::min(chunk_, columns - first);
        const auto begin = scores.begin() + h * columns + first;
        const Array part = backend.upload({1, length}, {begin, begin + length});
        const std::int64_t count = std::max<std::int64_t>(1, truncated(static_cast<double>(length) * share));
        const auto best = backend.select_top(part, {count});
        for (const std::int32_t column : best.front())
          kept[static_cast<std::size_t>(h)].push_back(static_cast<std::int32_t>(first) + column);
      }
      if (static_cast<std::int64_t>(kept[static_cast<std::size_t>(h)].size()) !=
          context.capacity[static_cast<std::size_t>(h)])
        context.layer.remark("rounds the share of each chunk down: the tokens kept differ from the budget");
    }
    return kept;
  }

 private:
  std::int64_t chunk_;
};

}  // namespace

std::unique_ptr<Selection> per_chunk_selection(int chunk) { return std::make_unique<PerChunkSelection>(chunk); }

}  // namespace kvreplay
