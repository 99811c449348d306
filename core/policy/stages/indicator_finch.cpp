#include "core/policy/stages/kvpress.h"

namespace kvreplay {
namespace {

class FinchIndicator final : public Indicator {
 public:
  FinchIndicator(int window, bool normalize) : window_(window), normalize_(normalize) {}

  std::string key(std::int64_t) const override {
    return "finch:" + std::to_string(window_) + (normalize_ ? ":normalize" : "");
  }

  // A query that sees many tokens gives each a small weight: its weights are multiplied by how many there are. The
  // published code counts the tokens before the query, one less than it sees.
  Array score(LayerWorkspace& layer, std::int64_t) const override {
    std::vector<double> weights;
    for (int w = 0; w < window_; ++w)
      weights.push_back((normalize_ ? static_cast<double>(layer.candidates() - window_ + w) : 1.0) / window_);
    Backend& backend = layer.backend();
    return backend.reduce_group(backend.reduce_rows(layer.window_attention(window_).weight, weights), layer.loaded().group(),
                                Reduction::mean);
  }

 private:
  int window_;
  bool normalize_;
};

}  // namespace

std::unique_ptr<Indicator> finch_indicator(int window, bool normalize) {
  return std::make_unique<FinchIndicator>(window, normalize);
}

}  // namespace kvreplay
