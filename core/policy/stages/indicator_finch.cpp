#include "core/policy/stages/kvpress.h"

namespace kvreplay {
namespace {

class FinchIndicator final : public Indicator {
 public:
  FinchIndicator(int window, FinchCount count) : window_(window), count_(count) {}

  std::string key(std::int64_t) const override {
    return "finch:" + std::to_string(window_) + ":" + std::to_string(static_cast<int>(count_));
  }

  Array score(LayerWorkspace& layer, std::int64_t) const override {
    std::vector<double> weights;
    for (int w = 0; w < window_; ++w) {
      const std::int64_t before = layer.candidates() - window_ + w;
      const std::int64_t count = count_ == FinchCount::none ? 1 : count_ == FinchCount::before ? before : before + 1;
      weights.push_back(static_cast<double>(count) / window_);
    }
    Backend& backend = layer.backend();
    return backend.reduce_group(backend.reduce_rows(layer.window_attention(window_).weight, weights), layer.loaded().group(),
                                Reduction::mean);
  }

 private:
  int window_;
  FinchCount count_;
};

}  // namespace

std::unique_ptr<Indicator> finch_indicator(int window, FinchCount count) {
  return std::make_unique<FinchIndicator>(window, count);
}

}  // namespace kvreplay
