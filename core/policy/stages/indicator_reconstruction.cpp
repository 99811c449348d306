// Removal of a token judged by what it does to the layer's output (An et al., ReST-KV, ICLR 2026).
#include "core/base/text.h"
#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

class ReconstructionIndicator final : public Indicator {
 public:
  ReconstructionIndicator(ReconstructionSettings settings, Grouping grouping)
      : settings_(std::move(settings)), grouping_(grouping) {}

  std::string key(std::int64_t) const override { return rows_key() + ":" + settings_.description + ":" + grouping_.key(); }

  Array score(LayerWorkspace& layer, std::int64_t) const override {
    const AttentionRows& rows = layer.window_attention(settings_.window);
    Backend& backend = layer.backend();
    if (!settings_.before)
      return grouping_.apply(layer, backend.removal_error_of_mean(layer.loaded(), rows, settings_.weights, settings_.form));
    // Per query head, then over the group, then over time; the first two are shared by every temporal form.
    const Array& errors = layer.shared<Array>(rows_key() + ":" + grouping_.key(), [&] {
      return grouping_.apply(layer, backend.removal_error_rows(layer.loaded(), rows, settings_.form));
    });
    return backend.reduce_rows(errors, settings_.weights);
  }

 private:
  std::string rows_key() const {
    const ReconstructionForm& form = settings_.form;
    return "reconstruction:" + std::to_string(settings_.window) + (settings_.before ? ":before" : ":after") +
           (form.project ? ":project" : "") + (form.normalize ? ":normalize" : "") + (form.prefix_output ? ":prefix" : "") +
           ":" + format_number(form.tau);
  }

  ReconstructionSettings settings_;
  Grouping grouping_;
};

}  // namespace

std::unique_ptr<Indicator> reconstruction_indicator(ReconstructionSettings settings, Grouping grouping) {
  return std::make_unique<ReconstructionIndicator>(std::move(settings), grouping);
}

}  // namespace kvreplay
