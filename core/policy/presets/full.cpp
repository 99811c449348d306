#include "core/policy/layer_workspace.h"

namespace kvreplay {
namespace {

class FullPolicy final : public Policy {
 public:
  Granularity granularity() const override { return Granularity::kv_head; }
  LayerEvictions evict(LayerWorkspace& layer, std::int64_t) const override {
    return layer.nothing_evicted(Granularity::kv_head);
  }
};

}  // namespace

const PolicyDescription& full_policy() {
  static const PolicyDescription description = {
      .name = "full",
      .idea = "Evicts nothing: what every other policy is measured against.",
      .paper = "",
      .stages = "none",
      .needs = "nothing",
      .variants = {{"paper", "the model as it is", ""}},
      .parameters = {},
      .make = [](const PolicySpec&) { return std::make_unique<FullPolicy>(); },
      .keeps_everything = true,
  };
  return description;
}

}  // namespace kvreplay
