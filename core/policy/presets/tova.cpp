// Token Omission Via Attention (Oren et al., EMNLP 2024): drop what the newest query attends to least.
#include <algorithm>

#include "core/policy/stages/kvpress.h"
#include "core/policy/stages/per_step.h"
#include "core/policy/stages/scorers.h"

namespace kvreplay {
namespace {

class TovaPolicy final : public Policy {
 public:
  bool evicts_while_decoding() const override { return true; }
  Granularity granularity() const override { return Granularity::layer; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = layer.nothing_evicted(Granularity::layer);
    const auto size = static_cast<std::size_t>(budget);
    RetainedSet cache;
    for (std::int64_t position = layer.first_candidate(); position < layer.prompt(); ++position)
      cache.positions.push_back(static_cast<std::int32_t>(position));
    const auto keep_best = [&](const std::vector<double>& score, std::int64_t step) {
      for (const auto position : cache.positions) result.evicted_at(0, position) = static_cast<std::int32_t>(step);
      std::vector<std::int32_t> kept;
      for (const std::size_t slot : top_slots(score, score.size(), size)) kept.push_back(cache.positions[slot]);
      for (const auto position : kept) result.evicted_at(0, position) = -1;
      cache.positions = std::move(kept);
    };

    if (cache.positions.size() > size) keep_best(last_prompt_row(layer), 0);
    const int heads = layer.loaded().num_query_heads;
    for (std::int64_t step = 1; step <= layer.loaded().steps(); ++step) {
      const std::int64_t position = layer.prompt() + step - 1;
      const auto low = layer.loaded().first_visible(position);
      cache.positions.erase(cache.positions.begin(), std::lower_bound(cache.positions.begin(), cache.positions.end(), low));
      cache.positions.push_back(static_cast<std::int32_t>(position));
      if (cache.positions.size() <= size) continue;
      std::vector<double> score(cache.positions.size());
      for (int h = 0; h < heads; ++h) {
        const auto attention = cache.attention(shared_decode_logits(layer, h).data() + (step - 1) * layer.tokens());
        for (std::size_t slot = 0; slot < score.size(); ++slot) score[slot] += attention[slot] / heads;
      }
      keep_best(score, step);
    }
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
