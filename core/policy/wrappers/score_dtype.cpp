// Scores in the arithmetic of the published runs, whose models were in float16.
#include "core/backend/half_precision.h"
#include "core/policy/stages/stages.h"
#include "core/policy/wrappers/wrapper.h"

namespace kvreplay {
namespace {

class HalfPrecisionPolicy final : public WrappedPolicy {
 public:
  using WrappedPolicy::WrappedPolicy;

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    struct Rounding {
      std::unique_ptr<Backend> backend;
      std::unique_ptr<LayerWorkspace> workspace;
    };
    using Stored = std::shared_ptr<Rounding>;
    const Stored& rounding = layer.shared<Stored>("score_dtype:fp16", [&] {
      auto made = std::make_shared<Rounding>();
      made->backend = make_half_precision_backend(layer.backend());
      made->workspace = std::make_unique<LayerWorkspace>(
          layer, *made->backend, layer.shared_across_layers<std::shared_ptr<SharedValues>>("score_dtype:fp16", [] {
            return std::make_shared<SharedValues>();
          }));
      return made;
    });
    rounding->workspace->set_wants_scores(layer.wants_scores());
    LayerEvictions result = inner().evict(*rounding->workspace, budget);
    for (const std::string& remark : rounding->workspace->take_remarks()) layer.remark(remark);
    return result;
  }
};

}  // namespace

const PolicyWrapper& score_dtype_wrapper() {
  static const PolicyWrapper wrapper = {
      .name = "score_dtype",
      .idea =
          "fp16 repeats the pipeline of the published runs, whose models were in float16: logits, attention, averages, "
          "norms "
          "and pooled scores are rounded to float16 after each operation (softmax and sums in float32). Ties become common "
          "and "
          "a weight near 1 makes infinite odds. Decode queries of policies that evict at each step stay in full precision.",
      .parameters = {choice_parameter("score_dtype", "arithmetic of the scores", {"fp32", "fp16"},
                                      {{wrapper_default, "fp32"}})},
      .constraints = {},
      .wrap = [](const PolicySpec&, std::unique_ptr<Policy> inner,
                 const std::string&) { return std::make_unique<HalfPrecisionPolicy>(std::move(inner)); },
  };
  return wrapper;
}

}  // namespace kvreplay
