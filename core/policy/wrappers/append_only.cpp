// A cache that only grows once decoding has begun: engines that share or copy prefix blocks cannot free single slots later.
#include "core/policy/stages/stages.h"
#include "core/policy/wrappers/wrapper.h"

namespace kvreplay {
namespace {

class AppendOnlyPolicy final : public WrappedPolicy {
 public:
  using WrappedPolicy::WrappedPolicy;
  bool evicts_while_decoding() const override { return false; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = inner().evict(layer, budget);
    for (std::int64_t i = 0; i < result.evicted_at.size(); ++i)
      if (result.evicted_at.data()[i] > 0) result.evicted_at.data()[i] = -1;
    std::erase_if(result.changes.rows, [](const CacheChanges::Row& row) { return row.step > 0; });
    return result;
  }
};

}  // namespace

const PolicyWrapper& append_only_wrapper() {
  static const PolicyWrapper wrapper = {
      .name = "append_only",
      .idea = "What was not evicted when the prompt ended stays: an engine that can only append to its cache.",
      .parameters = {boolean_parameter("append_only", "nothing is evicted after a decode step",
                                       {{wrapper_default, "false"}})},
      .constraints = {"true"},
      .wrap = [](const PolicySpec&, std::unique_ptr<Policy> inner,
                 const std::string&) { return std::make_unique<AppendOnlyPolicy>(std::move(inner)); },
  };
  return wrapper;
}

}  // namespace kvreplay
