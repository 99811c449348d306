#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

class TopSelection final : public Selection {
 public:
  std::vector<std::vector<std::int32_t>> select(const SelectionContext& context) const override {
    return context.layer.backend().select_top(context.scores, context.capacity);
  }
};

}  // namespace

std::unique_ptr<Selection> top_selection() { return std::make_unique<TopSelection>(); }

}  // namespace kvreplay
