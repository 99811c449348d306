// Indicators that look at the lengths of keys and values.
#include "core/base/text.h"
#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

class AttentionValueIndicator final : public Indicator {
 public:
  AttentionValueIndicator(int window, std::vector<double> weights, Grouping grouping)
      : window_(window), weights_(std::move(weights)), grouping_(grouping) {}

  std::string key(std::int64_t) const override {
    std::string key = "attention_value:" + std::to_string(window_) + ":" + grouping_.key();
    for (const double weight : weights_) key += ";" + format_number(weight);
    return key;
  }

  Array score(LayerWorkspace& layer, std::int64_t) const override {
    Backend& backend = layer.backend();
    const Array sum = backend.reduce_rows(layer.window_attention(window_).weight, weights_);
    return grouping_.apply(layer, backend.multiply(sum, backend.value_norms(layer.loaded()), 1));
  }

 private:
  int window_;
  std::vector<double> weights_;
  Grouping grouping_;
};

// The heads of a group share their keys, so every granularity below the layer ranks alike.
class KeyNormIndicator final : public Indicator {
 public:
  explicit KeyNormIndicator(Grouping grouping) : grouping_(grouping) {}
  std::string key(std::int64_t) const override { return "key_norm:" + grouping_.key(); }

  Array score(LayerWorkspace& layer, std::int64_t) const override {
    Backend& backend = layer.backend();
    const Array norms = backend.key_norms(layer.loaded());
    const std::int64_t heads = layer.loaded().num_query_heads, n = layer.candidates();
    const Array ones = backend.upload({heads, n}, std::vector<float>(static_cast<std::size_t>(heads * n), 1.0F));
    return grouping_.apply(layer, backend.multiply(ones, norms, -1));
  }

 private:
  Grouping grouping_;
};

}  // namespace

std::unique_ptr<Indicator> attention_value_indicator(int window, std::vector<double> weights, Grouping grouping) {
  return std::make_unique<AttentionValueIndicator>(window, std::move(weights), grouping);
}

std::unique_ptr<Indicator> key_norm_indicator(Grouping grouping) { return std::make_unique<KeyNormIndicator>(grouping); }

}  // namespace kvreplay
