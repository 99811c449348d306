// One kept set for all heads of a layer, as an engine with one block table for a layer needs it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/base/error.h"
#include "core/policy/stages/stages.h"
#include "core/policy/timeline.h"
#include "core/policy/wrappers/wrapper.h"

namespace kvreplay {
namespace {

class OneSetPolicy final : public WrappedPolicy {
 public:
  using WrappedPolicy::WrappedPolicy;
  Granularity granularity() const override { return Granularity::layer; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    const LayerEvictions own = inner().evict(layer, budget);
    const std::int64_t heads = own.evicted_at.dim(0);
    LayerEvictions result = layer.nothing_evicted(Granularity::layer);
    const auto row = replay_timeline(layer, [&](const Moment& moment) {
      std::vector<std::int64_t> votes(moment.cached.size(), 0);
      for (std::size_t k = 0; k < votes.size(); ++k)
        for (std::int64_t h = 0; h < heads; ++h) votes[k] += holds(own.evicted_at(h, moment.cached[k]), moment.step) ? 1 : 0;
      return most_votes(moment.cached, votes, held(layer, own, moment.step) / heads);
    });
    std::copy(row.begin(), row.end(), result.evicted_at.data());
    if (!own.scores.empty()) result.scores = mean_score(own.scores);
    return result;
  }

 private:
  // Tokens held after a step by all heads together.
  static std::int64_t held(const LayerWorkspace& layer, const LayerEvictions& own, std::int64_t step) {
    std::int64_t count = 0;
    for (std::int64_t h = 0; h < own.evicted_at.dim(0); ++h) count += held_after(layer, &own.evicted_at(h, 0), step);
    return count;
  }

  static std::vector<std::int32_t> most_votes(const std::vector<std::int32_t>& cached,
                                              const std::vector<std::int64_t>& votes, std::int64_t count) {
    if (count >= static_cast<std::int64_t>(cached.size())) return cached;
    std::vector<std::size_t> order(cached.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return votes[a] > votes[b]; });
    std::vector<std::int32_t> kept;
    for (std::int64_t k = 0; k < count; ++k) kept.push_back(cached[order[static_cast<std::size_t>(k)]]);
    std::sort(kept.begin(), kept.end());
    return kept;
  }

  static Tensor<float, 2> mean_score(const Tensor<float, 2>& scores) {
    Tensor<float, 2> mean({1, scores.dim(1)});
    for (std::int64_t i = 0; i < scores.dim(1); ++i) {
      double total = 0;
      for (std::int64_t h = 0; h < scores.dim(0); ++h) total += scores(h, i);
      mean(0, i) = static_cast<float>(total / static_cast<double>(scores.dim(0)));
    }
    return mean;
  }
};

}  // namespace

const PolicyWrapper& one_set_wrapper() {
  static const PolicyWrapper wrapper = {
      .name = "one_set",
      .idea =
          "One kept set for the whole layer, where an engine has one block table for all heads: the tokens that most heads "
          "hold, as many as a head holds on average (rounded down), ties to the lowest position.",
      .parameters = {boolean_parameter("one_set", "all heads of a layer keep the same tokens",
                                       {{wrapper_default, "false"}})},
      .constraints = {"true"},
      .wrap =
          [](const PolicySpec&, std::unique_ptr<Policy> inner, const std::string& owner) {
            if (inner->changes_rows())
              throw Error(owner, "\"one_set\" cannot be put around a policy that changes rows of single heads");
            return std::make_unique<OneSetPolicy>(std::move(inner));
          },
  };
  return wrapper;
}

}  // namespace kvreplay
