// H2O as its authors' masking code has it (FMInference/H2O, utils_hh): nothing is freed, a mask hides what is not chosen.
#include <algorithm>

#include "core/policy/stages/per_step.h"

namespace kvreplay {
namespace {

class MaskedH2O final : public Policy {
 public:
  MaskedH2O(int heavy, int recent, Grouping grouping) : heavy_(heavy), recent_(recent), grouping_(grouping) {}
  bool evicts_while_decoding() const override { return true; }
  Granularity granularity() const override { return grouping_.granularity; }
  std::int64_t fixed_budget() const override { return heavy_ + recent_; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = layer.nothing_evicted(grouping_.granularity);
    const bool sizes = heavy_ + recent_ > 0;
    const std::int64_t recent = sizes ? recent_ : std::max<std::int64_t>(1, budget / 2);
    const std::int64_t heavy = sizes ? heavy_ : budget - recent;
    if (recent == 0 || heavy + recent >= layer.candidates() + layer.loaded().steps()) return result;
    const Array& sums = causal_column_sums(layer);
    const Array grouped = grouping_.apply(layer, sums);
    const std::vector<float> accumulated = layer.backend().download(grouped);
    const std::int64_t n = layer.candidates();
    for (std::int64_t h = 0; h < grouped.dim(0); ++h) {
      std::vector<double> score(static_cast<std::size_t>(layer.tokens()));
      for (std::int64_t i = 0; i < n; ++i)
        score[static_cast<std::size_t>(layer.first_candidate() + i)] = accumulated[static_cast<std::size_t>(h * n + i)];
      simulate(layer, h, std::move(score), heavy, recent, result.evicted_at);
    }
    return result;
  }

 private:
  // score: by position, 0 for what is still to come.
  void simulate(LayerWorkspace& layer, std::int64_t head, std::vector<double> score, std::int64_t heavy, std::int64_t recent,
                Tensor<std::int32_t, 2>& evicted_at) const {
    RetainedSet visible;
    for (std::int64_t step = 0;; ++step) {
      const std::int64_t low = layer.loaded().first_visible(layer.prompt() + std::max<std::int64_t>(0, step - 1));
      const std::int64_t length = layer.prompt() + step;  // positions so far; the next query is fed at this one
      visible.positions = choose(score, low, length, heavy, recent);
      // The last time that a token turned invisible and stayed so: one that came back is taken as never gone.
      auto shown = visible.positions.begin();
      for (std::int64_t position = low; position < length; ++position) {
        std::int32_t& at = evicted_at(head, position);
        while (shown != visible.positions.end() && *shown < position) ++shown;
        if (shown != visible.positions.end() && *shown == position) {
          at = -1;
        } else {
          if (at < 0) at = static_cast<std::int32_t>(step);
          // The token in the blind slot just before the recent ones keeps what it has received.
          if (position < length - recent) score[static_cast<std::size_t>(position)] = 0;
        }
      }
      if (step == layer.loaded().steps()) return;
      const auto next_low = static_cast<std::int32_t>(layer.loaded().first_visible(length));
      visible.positions.erase(visible.positions.begin(),
                              std::lower_bound(visible.positions.begin(), visible.positions.end(), next_low));
      const auto received = group_attention(layer, head, evicted_at.dim(0), grouping_.reduction, visible, step + 1);
      for (std::size_t slot = 0; slot < received.size(); ++slot)
        score[static_cast<std::size_t>(visible.positions[slot])] += received[slot];
    }
  }

  // What the query at `length` sees: the last `recent` positions, itself included, and the heaviest below length - recent.
  // The position length - recent is in neither part: recent counts the coming token, heavy does not.
  static std::vector<std::int32_t> choose(const std::vector<double>& score, std::int64_t low, std::int64_t length,
                                          std::int64_t heavy, std::int64_t recent) {
    std::vector<std::int32_t> positions;
    const bool all = length - low <= heavy + recent;
    const std::int64_t first_recent = all ? low : std::max(low, length + 1 - recent);
    if (!all) {
      const std::vector<double> older(score.begin() + low, score.begin() + std::max(low, length - recent));
      for (const std::size_t slot : top_slots(older, older.size(), static_cast<std::size_t>(heavy)))
        positions.push_back(static_cast<std::int32_t>(low + static_cast<std::int64_t>(slot)));
    }
    for (std::int64_t position = first_recent; position <= length; ++position)
      positions.push_back(static_cast<std::int32_t>(position));
    return positions;
  }

  std::int64_t heavy_, recent_;
  Grouping grouping_;
};

}  // namespace

std::unique_ptr<Policy> make_masked_h2o_policy(int heavy, int recent, Grouping grouping) {
  return std::make_unique<MaskedH2O>(heavy, recent, grouping);
}

}  // namespace kvreplay
