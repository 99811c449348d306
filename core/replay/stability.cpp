#include <algorithm>
#include <utility>

#include "core/replay/stability_internal.h"

namespace kvreplay {
namespace {

double share(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 1;
}

}  // namespace

std::unique_ptr<Policy> half_precision_form(const PolicySpec& spec) {
  auto values = spec.values.all();
  if (std::exchange(values["score_dtype"], "fp16") == "fp16") return nullptr;
  PolicySpec half = spec;
  half.values = ParameterValues(std::move(values));
  return make_policy(half);
}

void KeptOverlap::add_layer(const LoadedLayer& layer, TensorView<const std::int32_t, 2> plain,
                            TensorView<const std::int32_t, 2> half) {
  for (std::int64_t h = 0; h < plain.dim(0); ++h) {
    std::int64_t both = 0, kept = 0, either = 0;
    for (std::int64_t t = layer.first_candidate; t < layer.prompt; ++t) {
      const bool a = plain(h, t) == -1, b = half(h, t) == -1;
      both += a && b ? 1 : 0;
      kept += a ? 1 : 0;
      either += a || b ? 1 : 0;
    }
    both_ += both, kept_ += kept, either_ += either;
    worst_overlap_ = std::min(worst_overlap_, share(both, kept));
    worst_jaccard_ = std::min(worst_jaccard_, share(both, either));
  }
}

void KeptOverlap::summarise(std::map<std::string, double>& summary) const {
  summary["kept_overlap_fp16"] = share(both_, kept_);
  summary["kept_overlap_fp16_worst"] = worst_overlap_;
  summary["kept_jaccard_fp16"] = share(both_, either_);
  summary["kept_jaccard_fp16_worst"] = worst_jaccard_;
}

}  // namespace kvreplay
