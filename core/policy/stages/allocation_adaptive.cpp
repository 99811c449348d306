// Head budgets from the scores themselves (Feng et al., Ada-KV, 2024), as the code of its authors and its copies have it.
#include <algorithm>
#include <cmath>
#include <functional>

#include "core/backend/order_key.h"
#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

class AdaptiveAllocation final : public Allocation {
 public:
  AdaptiveAllocation(double floor, bool normalize, bool exact) : floor_(floor), normalize_(normalize), exact_(exact) {}

  std::vector<std::int64_t> capacity(const AllocationContext& context) const override {
    const std::int64_t heads = context.scores.dim(0), columns = context.scores.dim(1),
                       base = context.budget - context.window;
    std::vector<float> scores = context.layer.backend().download(context.scores);
    if (normalize_)
      for (std::int64_t h = 0; h < heads; ++h) scale_by_share_of_best(scores.data() + h * columns, columns, base);

    // One flat selection over the layer; ties to the lower head, then the lower position.
    std::vector<std::uint64_t> keys(scores.size());
    for (std::size_t i = 0; i < scores.size(); ++i)
      keys[i] = static_cast<std::uint64_t>(order_key(scores[i])) << 32 | (0xffffffffU - static_cast<std::uint32_t>(i));
    const auto end = keys.begin() + std::min<std::int64_t>(heads * base, static_cast<std::int64_t>(keys.size()));
    if (end != keys.end()) std::nth_element(keys.begin(), end, keys.end(), std::greater<>());
    std::vector<std::int64_t> count(static_cast<std::size_t>(heads));
    for (auto it = keys.begin(); it != end; ++it)
      ++count[(0xffffffffU - static_cast<std::uint32_t>(*it)) / static_cast<std::uint64_t>(columns)];

    const auto equal = static_cast<std::int64_t>(static_cast<double>(base) * floor_);
    return exact_ ? divided(count, equal, heads * base, columns) : rounded(count, equal, columns);
  }

 private:
  // The published blend in float32, half to even; the sum over heads can differ from H · B by the rounding.
  std::vector<std::int64_t> rounded(std::vector<std::int64_t> count, std::int64_t equal, std::int64_t columns) const {
    for (std::int64_t& c : count) {
      const float blended = static_cast<float>(c) * static_cast<float>(1 - floor_) + static_cast<float>(equal);
      c = std::min(columns, static_cast<std::int64_t>(std::nearbyint(blended)));
    }
    return count;
  }

  // The same blend, with what rounding leaves given to the heads with the largest remainders.
  std::vector<std::int64_t> divided(const std::vector<std::int64_t>& count, std::int64_t equal, std::int64_t total,
                                    std::int64_t columns) const {
    std::vector<std::int64_t> capacity;
    std::vector<std::pair<double, std::size_t>> remainder;  // largest first, then the lowest head
    for (std::size_t h = 0; h < count.size(); ++h) {
      const double ideal = static_cast<double>(count[h]) * (1 - floor_) + static_cast<double>(equal);
      capacity.push_back(std::min(columns, static_cast<std::int64_t>(ideal)));
      remainder.emplace_back(std::floor(ideal) - ideal, h);
      total -= capacity.back();
    }
    std::sort(remainder.begin(), remainder.end());
    for (bool gave = true; total > 0 && gave;) {
      gave = false;
      for (const auto& [ignored, h] : remainder) {
        if (total == 0 || capacity[h] == columns) continue;
        ++capacity[h];
        --total;
        gave = true;
      }
    }
    return capacity;
  }

  static void scale_by_share_of_best(float* row, std::int64_t columns, std::int64_t base) {
    std::vector<float> sorted(row, row + columns);
    const std::int64_t best = std::min(base, columns);
    std::partial_sort(sorted.begin(), sorted.begin() + best, sorted.end(), std::greater<>());
    double all = 0, top = 0;
    for (std::int64_t i = 0; i < columns; ++i) {
      all += sorted[static_cast<std::size_t>(i)];
      if (i < best) top += sorted[static_cast<std::size_t>(i)];
    }
    const auto share = static_cast<float>(all > 0 ? top / all : 0);
    for (std::int64_t i = 0; i < columns; ++i) row[i] *= share;
  }

  double floor_;
  bool normalize_, exact_;
};

}  // namespace

std::unique_ptr<Allocation> adaptive_allocation(double floor, bool normalize, bool exact) {
  return std::make_unique<AdaptiveAllocation>(floor, normalize, exact);
}

}  // namespace kvreplay
