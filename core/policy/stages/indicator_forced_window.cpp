#include "core/base/error.h"
#include "core/policy/stages/kvpress.h"

namespace kvreplay {
namespace {

class ForcedWindowIndicator final : public Indicator {
 public:
  ForcedWindowIndicator(std::unique_ptr<Indicator> scored, std::unique_ptr<Pooling> pooling, int window,
                        std::string pooling_key)
      : scored_(std::move(scored)), pooling_(std::move(pooling)), window_(window), pooling_key_(std::move(pooling_key)) {}

  std::string key(std::int64_t budget) const override {
    return "forced_window:" + std::to_string(window_) + ":" + pooling_key_ + ":" + scored_->key(budget);
  }

  Array score(LayerWorkspace& layer, std::int64_t budget) const override {
    const std::int64_t columns = layer.candidates() - window_;
    if (columns <= 0)
      throw Error(layer.trace().path(),
                  "layer " + std::to_string(layer.layer()) + " holds " + std::to_string(layer.candidates()) +
                      " tokens, no more than the window of " + std::to_string(window_),
                  "use a smaller window");
    const Array scores = layer.backend().prefix(shared_score(*scored_, layer, budget), columns);
    return with_forced_ends(layer, pooling_->pool({layer, scores, budget}), 0, window_);
  }

 private:
  std::unique_ptr<Indicator> scored_;
  std::unique_ptr<Pooling> pooling_;
  int window_;
  std::string pooling_key_;
};

}  // namespace

std::unique_ptr<Indicator> forced_window_indicator(std::unique_ptr<Indicator> scored, std::unique_ptr<Pooling> pooling,
                                                   int window, std::string pooling_key) {
  return std::make_unique<ForcedWindowIndicator>(std::move(scored), std::move(pooling), window, std::move(pooling_key));
}

}  // namespace kvreplay
