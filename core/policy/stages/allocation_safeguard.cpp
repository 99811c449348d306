#include <limits>

#include "core/policy/stages/kvpress.h"

namespace kvreplay {
namespace {

class SafeguardAllocation final : public Allocation {
 public:
  explicit SafeguardAllocation(double safeguard) : safeguard_(safeguard) {}

  std::vector<std::int64_t> capacity(const AllocationContext& context) const override {
    Backend& backend = context.layer.backend();
    const std::int64_t heads = context.scores.dim(0), columns = context.scores.dim(1),
                       base = context.budget - context.window;
    std::vector<float> scores = backend.download(context.scores);
    const std::int64_t safe = truncated(static_cast<double>(base) * safeguard_);
    const auto best = backend.select_top(context.scores, std::vector<std::int64_t>(static_cast<std::size_t>(heads), safe));
    for (std::int64_t h = 0; h < heads; ++h)
      for (const std::int32_t column : best[static_cast<std::size_t>(h)])
        scores[static_cast<std::size_t>(h * columns + column)] = std::numeric_limits<float>::max();
    std::vector<std::int64_t> count(static_cast<std::size_t>(heads));
    const auto winners = backend.select_top(backend.upload({1, heads * columns}, scores), {heads * base});
    for (const std::int32_t flat : winners.front()) ++count[static_cast<std::size_t>(flat / columns)];
    return count;
  }

 private:
  double safeguard_;
};

}  // namespace

std::unique_ptr<Allocation> safeguard_allocation(double safeguard) {
  return std::make_unique<SafeguardAllocation>(safeguard);
}

}  // namespace kvreplay
