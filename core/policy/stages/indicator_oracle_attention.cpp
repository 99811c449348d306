#include "core/base/error.h"
#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

class OracleAttentionIndicator final : public Indicator {
 public:
  explicit OracleAttentionIndicator(Grouping grouping) : grouping_(grouping) {}
  std::string key(std::int64_t) const override { return "oracle_attention:" + grouping_.key(); }

  Array score(LayerWorkspace& layer, std::int64_t) const override {
    if (layer.loaded().steps() == 0)
      throw Error(layer.trace().path(), "has no generated tokens, which oracle_attention looks ahead at",
                  "capture with --generate N, or --prompt-length P below the number of ids");
    return grouping_.apply(layer, layer.backend().decode_attention_sum(layer.loaded()));
  }

 private:
  Grouping grouping_;
};

}  // namespace

std::unique_ptr<Indicator> oracle_attention_indicator(Grouping grouping) {
  return std::make_unique<OracleAttentionIndicator>(grouping);
}

}  // namespace kvreplay
