#include <algorithm>
#include <cmath>

#include "core/base/parallel.h"
#include "core/policy/stages/host_tensors.h"
#include "core/policy/stages/indicators_without_queries.h"
#include "core/policy/stages/per_step.h"

namespace kvreplay {
namespace {

// Guards of torch.nn.functional.normalize and cosine_similarity: keys of length 0 stay 0.
constexpr double smallest_length = 1e-12, smallest_product = 1e-8;

class KeyDifferenceIndicator final : public Indicator {
 public:
  std::string key(std::int64_t) const override { return "key_difference"; }

  Array score(LayerWorkspace& layer, std::int64_t) const override {
    const Tensor<float, 3>& keys = candidate_keys(layer);
    std::vector<std::int32_t> all(static_cast<std::size_t>(keys.dim(1)));
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int32_t>(i);
    Tensor<double, 2> scores({keys.dim(0), keys.dim(1)});
    parallel_for(keys.dim(0), 1, [&](std::int64_t h, std::int64_t) {
      const auto head = key_differences(keys.view()[h], all);
      std::copy(head.begin(), head.end(), scores.view()[h].data());
    });
    return upload_scores(layer, scores);
  }
};

// KeyDiff's own form, for prompts that are read block by block with a full cache.
class StreamedKeyDifference final : public Selection {
 public:
  explicit StreamedKeyDifference(int chunk) : chunk_(chunk) {}

  std::vector<std::vector<std::int32_t>> select(const SelectionContext& context) const override {
    const Tensor<float, 3>& keys = candidate_keys(context.layer);
    std::vector<std::vector<std::int32_t>> kept(context.capacity.size());
    parallel_for(keys.dim(0), 1, [&](std::int64_t h, std::int64_t) {
      const auto head = static_cast<std::size_t>(h);
      kept[head] = stream(keys.view()[h], context.capacity[head]);
    });
    return kept;
  }

 private:
  std::vector<std::int32_t> stream(TensorView<const float, 2> keys, std::int64_t size) const {
    std::vector<std::int32_t> cache;
    for (std::int64_t i = 0; i < size; ++i) cache.push_back(static_cast<std::int32_t>(i));
    for (std::int64_t begin = size; begin < keys.dim(0); begin += chunk_) {
      const std::int64_t end = std::min(begin + chunk_, keys.dim(0));
      for (std::int64_t i = begin; i < end; ++i) cache.push_back(static_cast<std::int32_t>(i));
      const std::vector<double> score = key_differences(keys, cache);
      const auto order = top_slots(score, score.size(), static_cast<std::size_t>(size));
      for (std::size_t i = 0; i < order.size(); ++i) cache[i] = cache[order[i]];
      cache.resize(order.size());
    }
    return cache;
  }

  int chunk_;
};

}  // namespace

std::vector<double> key_differences(TensorView<const float, 2> keys, const std::vector<std::int32_t>& rows) {
  std::vector<double> anchor(static_cast<std::size_t>(keys.dim(1)), 0.0), score;
  for (const std::int32_t row : rows) {
    const auto key = keys[row].flat();
    const double length = std::max(length_of(key), smallest_length);
    for (std::size_t i = 0; i < anchor.size(); ++i) anchor[i] += key[i] / length;
  }
  double squared = 0;
  for (double& x : anchor) {
    x /= static_cast<double>(rows.size());
    squared += x * x;
  }
  const double anchor_length = std::max(std::sqrt(squared), smallest_product);
  for (const std::int32_t row : rows) {
    const auto key = keys[row].flat();
    double dot = 0;
    for (std::size_t i = 0; i < anchor.size(); ++i) dot += key[i] * anchor[i];
    score.push_back(-dot / (std::max(length_of(key), smallest_product) * anchor_length));
  }
  return score;
}

std::unique_ptr<Indicator> key_difference_indicator() { return std::make_unique<KeyDifferenceIndicator>(); }

std::unique_ptr<Selection> streamed_key_difference(int chunk) { return std::make_unique<StreamedKeyDifference>(chunk); }

}  // namespace kvreplay
