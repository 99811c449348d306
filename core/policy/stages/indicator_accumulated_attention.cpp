#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

class AccumulatedAttentionIndicator final : public Indicator {
 public:
  AccumulatedAttentionIndicator(ColumnMask mask, int window, Grouping grouping)
      : mask_(mask), window_(window), grouping_(grouping) {}

  std::string key(std::int64_t) const override { return column_key() + ":" + grouping_.key(); }

  Array score(LayerWorkspace& layer, std::int64_t) const override {
    const Array& sums =
        layer.shared<Array>(column_key(), [&] { return layer.backend().column_sums(layer.loaded(), mask_, window_); });
    return grouping_.apply(layer, sums);
  }

 private:
  // The causal sums do not depend on the window.
  std::string column_key() const {
    return mask_ == ColumnMask::causal ? "column_sums" : "column_sums_full:" + std::to_string(window_);
  }

  ColumnMask mask_;
  int window_;
  Grouping grouping_;
};

}  // namespace

std::unique_ptr<Indicator> accumulated_attention_indicator(ColumnMask mask, int window, Grouping grouping) {
  return std::make_unique<AccumulatedAttentionIndicator>(mask, window, grouping);
}

}  // namespace kvreplay
