// Kept sets in whole blocks of neighbouring positions, as a paged cache frees memory.
#include <algorithm>
#include <cmath>

#include "core/policy/stages/stages.h"
#include "core/policy/timeline.h"
#include "core/policy/wrappers/wrapper.h"

namespace kvreplay {
namespace {

class BlockPolicy final : public WrappedPolicy {
 public:
  BlockPolicy(std::unique_ptr<Policy> inner, int size) : WrappedPolicy(std::move(inner)), size_(size) {}

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = evict_with_scores(layer, budget);
    for (std::int64_t h = 0; h < result.evicted_at.dim(0); ++h) {
      const std::vector<std::int32_t> own(&result.evicted_at(h, 0), &result.evicted_at(h, 0) + layer.tokens());
      std::vector<double> worth(own.size(), 1.0);
      if (h < result.scores.dim(0)) weigh_by_rank(result.scores.view()[h].flat(), own, worth);
      const auto row = replay_timeline(layer, [&](const Moment& moment) { return whole_blocks(layer, moment, own, worth); });
      std::copy(row.begin(), row.end(), &result.evicted_at(h, 0));
    }
    if (!layer.wants_scores()) result.scores = {};
    return result;
  }

 private:
  struct Block {
    std::int64_t begin = 0, end = 0;  // in Moment::cached
    double votes = 0;                 // of the tokens in it that the policy holds
    bool newest = false;
  };

  // Attention falls off about as 1 / rank, and a few tokens (sinks) have most of it: of the n tokens that the policy scored
  // and kept, the one of rank r counts n / r.
  static void weigh_by_rank(std::span<const float> score, const std::vector<std::int32_t>& own, std::vector<double>& worth) {
    std::vector<std::size_t> kept;
    for (std::size_t i = 0; i < score.size(); ++i)
      if (own[i] != 0 && !std::isnan(score[i])) kept.push_back(i);
    std::stable_sort(kept.begin(), kept.end(), [&](std::size_t a, std::size_t b) { return score[a] > score[b]; });
    for (std::size_t rank = 0; rank < kept.size(); ++rank)
      worth[kept[rank]] = static_cast<double>(kept.size()) / static_cast<double>(rank + 1);
  }

  std::vector<std::int32_t> whole_blocks(const LayerWorkspace& layer, const Moment& moment,
                                         const std::vector<std::int32_t>& own, const std::vector<double>& worth) const {
    std::vector<Block> blocks;
    const std::int64_t held = held_after(layer, own.data(), moment.step);
    if (held >= static_cast<std::int64_t>(moment.cached.size())) return moment.cached;
    for (std::size_t k = 0; k < moment.cached.size(); ++k) {
      const std::int32_t position = moment.cached[k];
      if (k == 0 || position / size_ != moment.cached[k - 1] / size_)
        blocks.push_back({static_cast<std::int64_t>(k), static_cast<std::int64_t>(k), 0, false});
      ++blocks.back().end;
      if (holds(own[static_cast<std::size_t>(position)], moment.step))
        blocks.back().votes += worth[static_cast<std::size_t>(position)];
    }
    // The block that the engine is writing to stays.
    blocks.back().newest = true;
    std::stable_sort(blocks.begin(), blocks.end(),
                     [](const Block& a, const Block& b) { return a.newest != b.newest ? a.newest : a.votes > b.votes; });
    std::vector<std::int32_t> kept;
    for (const Block& block : blocks) {
      if (!kept.empty() && static_cast<std::int64_t>(kept.size()) + block.end - block.begin > held) continue;
      if (block.votes == 0 && !block.newest) continue;
      kept.insert(kept.end(), moment.cached.begin() + block.begin, moment.cached.begin() + block.end);
    }
    std::sort(kept.begin(), kept.end());
    return kept;
  }

  int size_;
};

}  // namespace

const PolicyWrapper& block_wrapper() {
  static const PolicyWrapper wrapper = {
      .name = "block",
      .idea =
          "Kept sets in whole blocks of neighbouring positions, as a paged cache frees memory: the blocks whose held tokens "
          "count most, as many as fit into what the policy holds (at least one), ties to the lowest; the block of the "
          "newest "
          "token stays. Of n tokens that the policy scored and kept, the one of rank r counts n / r (so that a block with a "
          "sink is not lost to blocks with many weak tokens); others, and those of policies without scores, count 1. A "
          "block "
          "of 1 is no constraint.",
      .parameters = {integer_parameter("block", "slots of a block; 16, 32 and 256 are usual", 1, 65536,
                                       {{wrapper_default, "1"}})},
      .constraints = {"16", "32", "256"},
      .wrap = [](const PolicySpec& spec, std::unique_ptr<Policy> inner, const std::string&) -> std::unique_ptr<Policy> {
        return std::make_unique<BlockPolicy>(std::move(inner), spec.values.integer("block"));
      },
  };
  return wrapper;
}

}  // namespace kvreplay
