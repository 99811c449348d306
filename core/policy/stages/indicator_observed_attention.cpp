#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

class ObservedAttentionIndicator final : public Indicator {
 public:
  explicit ObservedAttentionIndicator(Grouping grouping)
      : sums_(accumulated_attention_indicator(ColumnMask::causal, 0, {Granularity::query_head, Reduction::mean})),
        grouping_(grouping) {}

  std::string key(std::int64_t) const override { return "observed_attention:" + grouping_.key(); }

  // A candidate is seen by its own query and every later one: a sliding window that it has left makes it no candidate.
  Array score(LayerWorkspace& layer, std::int64_t budget) const override {
    const std::int64_t n = layer.candidates();
    std::vector<float> share;
    for (std::int64_t j = 0; j < n; ++j) share.push_back(static_cast<float>(1.0 / static_cast<double>(n - j)));
    Backend& backend = layer.backend();
    return grouping_.apply(layer, backend.multiply(shared_score(*sums_, layer, budget), backend.upload({1, n}, share), 1));
  }

 private:
  std::unique_ptr<Indicator> sums_;
  Grouping grouping_;
};

}  // namespace

std::unique_ptr<Indicator> observed_attention_indicator(Grouping grouping) {
  return std::make_unique<ObservedAttentionIndicator>(grouping);
}

}  // namespace kvreplay
