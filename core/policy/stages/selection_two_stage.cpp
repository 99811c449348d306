#include <algorithm>

#include "core/base/error.h"
#include "core/policy/stages/kvpress.h"
#include "core/policy/stages/two_stage.h"

namespace kvreplay {
namespace {

class TwoStageSelection final : public Selection {
 public:
  TwoStageSelection(double first_stage, double epsilon, double safeguard)
      : first_stage_(first_stage), epsilon_(epsilon), safeguard_(safeguard) {}

  std::vector<std::vector<std::int32_t>> select(const SelectionContext& context) const override {
    const std::int64_t safe = truncated(static_cast<double>(context.budget) * safeguard_);
    std::vector<std::int64_t> first;
    for (const std::int64_t capacity : context.capacity)
      first.push_back(std::min(capacity, std::max(safe, truncated(static_cast<double>(capacity) * first_stage_))));
    const Array scores = two_stage_scores(context.layer, context.scores, context.first_column, first, epsilon_);
    return context.layer.backend().select_top(scores, context.capacity);
  }

 private:
  double first_stage_, epsilon_, safeguard_;
};

}  // namespace

std::unique_ptr<Selection> two_stage_selection(double first_stage, double epsilon, double safeguard) {
  return std::make_unique<TwoStageSelection>(first_stage, epsilon, safeguard);
}

}  // namespace kvreplay
