#include "core/policy/stages/counter_random.h"
#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

class RandomIndicator final : public Indicator {
 public:
  RandomIndicator(std::uint64_t seed, Granularity granularity) : seed_(seed), granularity_(granularity) {}

  std::string key(std::int64_t) const override {
    return "random:" + std::to_string(seed_) + ":" + std::string(granularity_name(granularity_));
  }

  Array score(LayerWorkspace& layer, std::int64_t) const override {
    const std::int64_t heads = granularity_heads(granularity_, layer.model()), n = layer.candidates();
    std::vector<float> scores;
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t c = 0; c < n; ++c) {
        const std::uint64_t number =
            random_number(seed_, static_cast<std::uint64_t>(layer.layer()), static_cast<std::uint64_t>(h),
                          static_cast<std::uint64_t>(layer.first_candidate() + c));
        scores.push_back(static_cast<float>(number >> 40) * 0x1p-24F);
      }
    return layer.backend().upload({heads, n}, scores);
  }

 private:
  std::uint64_t seed_;
  Granularity granularity_;
};

}  // namespace

std::unique_ptr<Indicator> random_indicator(std::uint64_t seed, Granularity granularity) {
  return std::make_unique<RandomIndicator>(seed, granularity);
}

}  // namespace kvreplay
