#include "core/base/text.h"
#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

std::string weights_key(const std::vector<double>& weights) {
  std::string key;
  for (const double weight : weights) key += format_number(weight) + ";";
  return key;
}

class AttentionIndicator final : public Indicator {
 public:
  AttentionIndicator(int window, std::vector<double> weights, Grouping grouping)
      : window_(window), weights_(std::move(weights)), grouping_(grouping) {}

  std::string key(std::int64_t) const override {
    return "attention:" + std::to_string(window_) + ":" + weights_key(weights_) + ":" + grouping_.key();
  }

  Array score(LayerWorkspace& layer, std::int64_t) const override {
    const Array sum = layer.backend().reduce_rows(layer.window_attention(window_).weight, weights_);
    return grouping_.apply(layer, sum);
  }

 private:
  int window_;
  std::vector<double> weights_;
  Grouping grouping_;
};

}  // namespace

std::unique_ptr<Indicator> attention_indicator(int window, std::vector<double> weights, Grouping grouping) {
  return std::make_unique<AttentionIndicator>(window, std::move(weights), grouping);
}

}  // namespace kvreplay
