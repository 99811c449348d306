#include "core/policy/stages/cam.h"

namespace kvreplay {
namespace {

class CamPromptPolicy final : public Policy {
 public:
  CamPromptPolicy(int window, Grouping grouping, MergeDraw draw) : window_(window), grouping_(grouping), draw_(draw) {
    OneShotStages stages;
    stages.granularity = grouping.granularity;
    stages.window = window;
    stages.indicator = attention_indicator(window, temporal_weights("sum", 0, window), grouping);
    selection_ = make_one_shot_policy(std::move(stages));
  }
  Granularity granularity() const override { return grouping_.granularity; }
  std::int64_t minimum_budget() const override { return selection_->minimum_budget(); }
  bool changes_rows() const override { return true; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = selection_->evict(layer, budget);
    if (budget >= layer.candidates()) return result;
    const Tensor<float, 2> mean = mean_attention(layer);
    CacheChanges& changes = result.changes;
    changes.heads = stored_heads(grouping_.granularity, layer.model());
    changes.dim = layer.model().head_dim;
    const std::int64_t sets = result.evicted_at.dim(0), kv_heads = layer.model().num_kv_heads;
    for (std::int64_t h = 0; h < changes.heads; ++h) {
      const std::int64_t kv_head = h * kv_heads / changes.heads, set = h * sets / changes.heads;
      const auto merged = merged_values(layer, h, kv_head, mean.view()[set].flat());
      for (std::int64_t c = 0; c < layer.candidates(); ++c) {
        const std::int64_t position = layer.first_candidate() + c;
        if (merged.changed[static_cast<std::size_t>(c)] && result.evicted_at(set, position) != 0)
          changes.rows.push_back({0, static_cast<std::int32_t>(h), static_cast<std::int32_t>(position), -1,
                                  changes.store(merged.value.view()[c].flat())});
      }
    }
    return result;
  }

 private:
  // Attention of the window's queries, their mean, reduced over the heads that share a set: [H, n].
  Tensor<float, 2> mean_attention(LayerWorkspace& layer) const {
    const auto indicator = attention_indicator(window_, temporal_weights("mean", 0, window_), grouping_);
    const Array score = shared_score(*indicator, layer, 0);
    const std::vector<float> values = layer.backend().download(score);
    Tensor<float, 2> out({score.dim(0), score.dim(1)});
    std::copy(values.begin(), values.end(), out.data());
    return out;
  }

  struct Merged {
    Tensor<double, 2> value;  // [n, d]
    std::vector<bool> changed;
  };

  Merged merged_values(LayerWorkspace& layer, std::int64_t head, std::int64_t kv_head, std::span<const float> mean) const {
    const std::int64_t n = layer.candidates(), d = layer.model().head_dim;
    const Tensor<float, 3>& recorded = layer.host(LayerDataset::value);
    Merged merged{Tensor<double, 2>({n, d}), std::vector<bool>(static_cast<std::size_t>(n))};
    std::copy_n(&recorded(kv_head, layer.first_candidate(), 0), n * d, merged.value.data());
    const std::int64_t start = (n + 9) / 10;
    const float first = *std::max_element(mean.begin(), mean.begin() + start);
    for (std::int64_t p = start; p + window_ < n; ++p) {
      const float here = *std::max_element(mean.begin() + p, mean.begin() + p + window_);
      const double share = draw_(MergeDraw::probability(mean[static_cast<std::size_t>(p)], std::max(first, here)),
                                 layer.layer(), head, layer.first_candidate() + p) /
                           window_;
      if (share == 0) continue;
      for (std::int64_t t = p + 1; t <= p + window_; ++t) {
        merged.changed[static_cast<std::size_t>(t)] = true;
        for (std::int64_t i = 0; i < d; ++i) merged.value(t, i) += share * merged.value(p, i);
      }
    }
    return merged;
  }

  int window_;
  Grouping grouping_;
  MergeDraw draw_;
  std::unique_ptr<Policy> selection_;
};

}  // namespace

std::unique_ptr<Policy> make_cam_prompt_policy(int window, Grouping grouping, MergeDraw draw) {
  return std::make_unique<CamPromptPolicy>(window, grouping, draw);
}

}  // namespace kvreplay
