#include <algorithm>
#include <functional>

#include "core/policy/stages/counter_random.h"
#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

class RandomPolicy final : public Policy {
 public:
  RandomPolicy(int window, std::uint64_t seed, Granularity granularity)
      : window_(window), seed_(seed), granularity_(granularity) {}
  Granularity granularity() const override { return granularity_; }
  std::int64_t minimum_budget() const override { return window_; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = layer.nothing_evicted(granularity_);
    if (budget >= layer.candidates()) return result;
    const std::int64_t columns = layer.candidates() - window_, kept = budget - window_;
    std::vector<std::pair<std::uint64_t, std::int64_t>> order(static_cast<std::size_t>(columns));
    for (std::int64_t h = 0; h < result.evicted_at.dim(0); ++h) {
      for (std::int64_t c = 0; c < columns; ++c) {
        const std::int64_t position = layer.first_candidate() + c;
        order[static_cast<std::size_t>(c)] = {
            random_number(seed_, static_cast<std::uint64_t>(layer.layer()), static_cast<std::uint64_t>(h),
                          static_cast<std::uint64_t>(position)),
            position};
      }
      std::nth_element(order.begin(), order.begin() + kept, order.end());
      for (auto it = order.begin() + kept; it != order.end(); ++it) result.evicted_at(h, it->second) = 0;
    }
    return result;
  }

 private:
  std::int64_t window_;
  std::uint64_t seed_;
  Granularity granularity_;
};

}  // namespace

const PolicyDescription& random_policy() {
  static const PolicyDescription description = {
      .name = "random",
      .idea = "Keeps the last tokens and a random choice of the others: what a score has to beat.",
      .paper = "",
      .stages = "position → uniform → top-k + window",
      .needs = "nothing",
      .variants = {{"paper", "a baseline of this project",
                    "The code released with ReST-KV draws from all positions and protects no window."}},
      .parameters = {[] {
                       Parameter p = window_parameter({{"paper", "32"}});
                       p.minimum = 0;
                       p.doc = "the last prompt tokens, always kept and counted in the budget";
                       return p;
                     }(),
                     integer_parameter("seed", "of the counter-based generator, together with layer and head", 0, 2147483647,
                                       {{"paper", "0"}}),
                     granularity_parameter({{"paper", "kv_head"}})},
      .make =
          [](const PolicySpec& spec) {
            return std::make_unique<RandomPolicy>(spec.values.integer("window"),
                                                  static_cast<std::uint64_t>(spec.values.integer("seed")),
                                                  granularity_of(spec.values));
          },
  };
  return description;
}

}  // namespace kvreplay
