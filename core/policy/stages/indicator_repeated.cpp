#include "core/policy/stages/kvpress.h"

namespace kvreplay {
namespace {

class RepeatedIndicator final : public Indicator {
 public:
  explicit RepeatedIndicator(std::unique_ptr<Indicator> scored) : scored_(std::move(scored)) {}

  std::string key(std::int64_t budget) const override { return "repeated:" + scored_->key(budget); }

  Array score(LayerWorkspace& layer, std::int64_t budget) const override {
    const std::vector<float> row = layer.backend().download(shared_score(*scored_, layer, budget));
    const std::int64_t heads = layer.loaded().num_kv_heads;
    std::vector<float> all;
    for (std::int64_t h = 0; h < heads; ++h) all.insert(all.end(), row.begin(), row.end());
    return layer.backend().upload({heads, layer.candidates()}, all);
  }

 private:
  std::unique_ptr<Indicator> scored_;
};

}  // namespace

std::unique_ptr<Indicator> repeated_indicator(std::unique_ptr<Indicator> scored) {
  return std::make_unique<RepeatedIndicator>(std::move(scored));
}

}  // namespace kvreplay
