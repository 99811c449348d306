// Token Omission Via Attention (Oren et al., EMNLP 2024): drop what the newest query attends to least.
#include <algorithm>

#include "core/policy/stages/kvpress.h"
#include "core/policy/stages/per_step.h"
#include "core/policy/stages/scorers.h"
#include "core/policy/timeline.h"

namespace kvreplay {
namespace {

class TovaPolicy final : public Policy {
 public:
  bool evicts_while_decoding() const override { return true; }
  Granularity granularity() const override { return Granularity::layer; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = layer.nothing_evicted(Granularity::layer);
    const auto size = static_cast<std::size_t>(budget);
    const auto row = replay_timeline(layer, [&](const Moment& moment) {
      if (moment.cached.size() <= size) return moment.cached;
      const RetainedSet cache{moment.cached};
      const std::vector<double> score =
          moment.step == 0 ? last_prompt_row(layer) : group_attention(layer, 0, 1, Reduction::mean, cache, moment.step);
      return cache.at(top_slots(score, score.size(), size));
    });
    std::copy(row.begin(), row.end(), result.evicted_at.data());
    return result;
  }

 private:
  // Mean over all query heads of the last prompt query's attention.
  static std::vector<double> last_prompt_row(LayerWorkspace& layer) {
    Backend& backend = layer.backend();
    const Array& rows = layer
                            .shared<AttentionRows>("window_attention_only:1",
                                                   [&] { return backend.window_attention(layer.loaded(), 1, false); })
                            .weight;
    const std::vector<float> weight = backend.download(rows);
    std::vector<double> score(static_cast<std::size_t>(layer.candidates()));
    const int heads = layer.loaded().num_query_heads;
    for (std::size_t i = 0; i < weight.size(); ++i) score[i % score.size()] += static_cast<double>(weight[i]) / heads;
    return score;
  }
};

// The last query's attention, mean over the layer's query heads; the last token is forced.
std::unique_ptr<Indicator> last_query_indicator() {
  return forced_window_indicator(attention_indicator(1, {1.0}, {Granularity::layer, Reduction::mean}), no_pooling(), 1,
                                 "none");
}

std::unique_ptr<Policy> make(const PolicySpec& spec) {
  if (spec.variant == "paper" || spec.variant == "original") return std::make_unique<TovaPolicy>();
  OneShotStages stages;
  if (spec.variant == "kvpress") {
    stages.granularity = Granularity::layer;
    stages.indicator = last_query_indicator();
  } else {
    stages.granularity = Granularity::query_head;
    stages.window = 1;
    stages.indicator = attention_indicator(1, {1.0}, {Granularity::query_head, Reduction::mean});
  }
  return make_one_shot_policy(std::move(stages));
}

}  // namespace

std::unique_ptr<Indicator> tova_scorer(const PolicySpec&) { return repeated_indicator(last_query_indicator()); }

const PolicyDescription& tova_policy() {
  static const PolicyDescription description = {
      .name = "tova",
      .idea = "After every step drops the token that the newest query attends to least, one set for the whole layer.",
      .paper = "Oren et al., Transformers are Multi-State RNNs, EMNLP 2024",
      .stages =
          "attention (newest query) → mean over all query heads → top-k, the newest token not forced; each decode step "
          "(paper, original), once when the prompt ends (kvpress, derived)",
      .needs = "the last prompt query; every decode query (paper, original)",
      .variants =
          {{"paper", "Oren et al. 2024", "As the authors' code."},
           {"original", "schwartz-lab-NLP/TOVA at 9c7d09b",
            "The newest token competes too: some are dropped at their own step."},
           {"kvpress", "NVIDIA/kvpress at 8bb29b9", "Once, when the prompt ends; the last prompt token is forced."},
           {"derived", "a definition of this project",
            "The form in which policies released for comparison would have it: once, per query head, the last prompt "
            "token always kept. Figures are published for such a TOVA (ReST-KV), code is not."}},
      .parameters = {},
      .make = make,
  };
  return description;
}

}  // namespace kvreplay
