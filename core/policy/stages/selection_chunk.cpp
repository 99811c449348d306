// Chunks of neighbouring tokens that stay or go together (Liu et al., ChunkKV, 2025).
#include <algorithm>
#include <numeric>

#include "core/policy/stages/kvpress.h"

namespace kvreplay {
namespace {

class ChunkSelection final : public Selection {
 public:
  ChunkSelection(int chunk, bool one_set) : chunk_(chunk), one_set_(one_set) {}

  std::vector<std::vector<std::int32_t>> select(const SelectionContext& context) const override {
    const std::int64_t columns = context.scores.dim(1);
    if (columns < chunk_) return context.layer.backend().select_top(ranked(context), context.capacity);
    std::vector<std::vector<std::int32_t>> kept;
    const auto rows = chunk_scores(context);
    for (std::size_t h = 0; h < rows.size(); ++h) {
      const auto chunks = static_cast<std::int64_t>(rows[h].size());
      const double share = 1 - kvpress_ratio(columns, context.capacity[h]);
      const std::int64_t count = std::max<std::int64_t>(1, truncated(static_cast<double>(chunks) * share));
      std::vector<std::int64_t> order(rows[h].size());
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
        return rows[h][static_cast<std::size_t>(a)] > rows[h][static_cast<std::size_t>(b)];
      });
      std::sort(order.begin(), order.begin() + count);
      kept.emplace_back();
      for (std::int64_t i = 0; i < count; ++i)
        for (std::int64_t c = order[static_cast<std::size_t>(i)] * chunk_;
             c < columns && c < (order[static_cast<std::size_t>(i)] + 1) * chunk_; ++c)
          kept.back().push_back(static_cast<std::int32_t>(c));
      if (static_cast<std::int64_t>(kept.back().size()) != context.capacity[h])
        context.layer.remark("keeps whole chunks: the tokens kept differ from the budget");
    }
    return kept;
  }

  // Every column with the score of its chunk, or with its own when there is no whole chunk.
  Array ranked(const SelectionContext& context) const override {
    const std::int64_t columns = context.scores.dim(1);
    std::vector<float> scores;
    const auto rows = columns < chunk_ ? summed(context) : chunk_scores(context);
    const std::int64_t length = columns < chunk_ ? 1 : chunk_;
    for (const auto& row : rows)
      for (std::int64_t c = 0; c < columns; ++c)
        scores.push_back(static_cast<float>(row[static_cast<std::size_t>(c / length)]));
    return context.layer.backend().upload({static_cast<std::int64_t>(rows.size()), columns}, scores);
  }

 private:
  // Scores of each set: of each head, or the sum over them.
  std::vector<std::vector<double>> summed(const SelectionContext& context) const {
    const std::vector<float> scores = context.layer.backend().download(context.scores);
    const std::int64_t heads = context.scores.dim(0), columns = context.scores.dim(1);
    std::vector<std::vector<double>> sums(static_cast<std::size_t>(one_set_ ? 1 : heads),
                                          std::vector<double>(static_cast<std::size_t>(columns), 0.0));
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t c = 0; c < columns; ++c)
        sums[static_cast<std::size_t>(one_set_ ? 0 : h)][static_cast<std::size_t>(c)] +=
            scores[static_cast<std::size_t>(h * columns + c)];
    return sums;
  }

  std::vector<std::vector<double>> chunk_scores(const SelectionContext& context) const {
    std::vector<std::vector<double>> means;
    for (const auto& row : summed(context)) {
      means.emplace_back();
      for (std::size_t first = 0; first < row.size(); first += static_cast<std::size_t>(chunk_)) {
        const std::size_t end = std::min(row.size(), first + static_cast<std::size_t>(chunk_));
        double sum = 0;
        for (std::size_t c = first; c < end; ++c) sum += row[c];
        means.back().push_back(sum / static_cast<double>(end - first));
      }
    }
    return means;
  }

  std::int64_t chunk_;
  bool one_set_;
};

}  // namespace

std::unique_ptr<Selection> chunk_selection(int chunk, bool one_set) {
  return std::make_unique<ChunkSelection>(chunk, one_set);
}

}  // namespace kvreplay
