// Output perturbation as CriticalKV bounds it (Feng et al. 2025): attention times the size of the projected value, once the
// tokens with the most attention are safe.
#include "core/base/text.h"
#include "core/policy/stages/kvpress.h"
#include "core/policy/stages/two_stage.h"

namespace kvreplay {
namespace {

class CriticalIndicator final : public Indicator {
 public:
  CriticalIndicator(std::unique_ptr<Indicator> scored, double first_stage, double epsilon)
      : scored_(std::move(scored)), first_stage_(first_stage), epsilon_(epsilon) {}

  std::string key(std::int64_t budget) const override {
    return "critical:" + format_number(first_stage_) + ":" + format_number(epsilon_) + ":" + std::to_string(budget) + ":" +
           scored_->key(budget);
  }

  Array score(LayerWorkspace& layer, std::int64_t budget) const override {
    const Array& scores = shared_score(*scored_, layer, budget);
    const std::int64_t n = layer.candidates();
    const std::int64_t first = truncated((1 - kvpress_ratio(n, budget)) * static_cast<double>(n) * first_stage_);
    const std::vector<std::int64_t> counts(static_cast<std::size_t>(scores.dim(0)), first);
    return two_stage_scores(layer, scores, 0, counts, epsilon_);
  }

 private:
  std::unique_ptr<Indicator> scored_;
  double first_stage_, epsilon_;
};

}  // namespace

std::unique_ptr<Indicator> critical_indicator(std::unique_ptr<Indicator> scored, double first_stage, double epsilon) {
  return std::make_unique<CriticalIndicator>(std::move(scored), first_stage, epsilon);
}

}  // namespace kvreplay
