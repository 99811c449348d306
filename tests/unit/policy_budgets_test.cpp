// Budgets of layers and heads, key norms and the ablations, each against a plain float64 computation.
#include <gtest/gtest.h>

#include "tests/unit/policy_reference.h"

namespace kvreplay {
namespace {

using reference::evict;
using reference::kept_once;
using reference::Layer;
using reference::Rows;
using reference::Shape;
using reference::shape_of;
using reference::simulate;

constexpr int window = 8;

// Attention of the last W prompt queries of one query head, summed; [prefix].
std::vector<double> window_sum(const Layer& layer, const Shape& shape, int h) {
  std::vector<double> sum(static_cast<std::size_t>(shape.prompt - window), 0.0);
  for (int t = shape.prompt - window; t < shape.prompt; ++t) {
    const auto a = layer.attention(h, t, layer.visible(t));
    for (std::size_t j = 0; j < sum.size(); ++j) sum[j] += a[j];
  }
  return sum;
}

std::vector<double> group_mean(const Layer& layer, const Shape& shape, int kv_head) {
  std::vector<double> mean(static_cast<std::size_t>(shape.prompt - window), 0.0);
  for (int h = kv_head * layer.group(); h < (kv_head + 1) * layer.group(); ++h) {
    const auto sum = window_sum(layer, shape, h);
    for (std::size_t j = 0; j < mean.size(); ++j) mean[j] += sum[j] / layer.group();
  }
  return mean;
}

std::vector<double> average(const std::vector<double>& x, int kernel) {
  std::vector<double> out(x.size(), 0.0);
  const int n = static_cast<int>(x.size());
  for (int i = 0; i < n; ++i)
    for (int j = std::max(0, i - kernel / 2); j <= std::min(n - 1, i + kernel / 2); ++j)
      out[static_cast<std::size_t>(i)] += x[static_cast<std::size_t>(j)] / kernel;
  return out;
}

std::vector<std::int32_t> best_and_window(const Shape& shape, const std::vector<double>& score, int count) {
  auto kept = reference::top(score, static_cast<int>(score.size()), count);
  for (int t = shape.prompt - window; t < shape.prompt; ++t) kept.insert(t);
  return kept_once(shape, kept);
}

double key_norm(const Layer& layer, int h, int t) {
  double squared = 0;
  for (int i = 0; i < layer.trace.model.head_dim; ++i) squared += layer.k(h, t, i) * layer.k(h, t, i);
  return std::sqrt(squared);
}

std::vector<double> shortest_first(const Layer& layer, int h, const std::set<int>& cached) {
  std::vector<double> score(layer.trace.token_ids.size(), -1e9);
  for (const int t : cached) score[static_cast<std::size_t>(t)] = -key_norm(layer, h, t);
  return score;
}

TEST(PolicyReference, KnormInEveryForm) {
  Shape shape = shape_of(51);
  shape.layers = 3;
  const auto contents = reference::random_contents(shape);
  for (int l = 0; l < shape.layers; ++l) {
    const Layer layer{contents, l};
    Rows once, pruned;
    for (int g = 0; g < shape.kv_heads; ++g) {
      const int h = g * layer.group();
      once.push_back(
          kept_once(shape, reference::top(shortest_first(layer, h, layer.visible(shape.prompt - 1)), shape.prompt, 40)));
      pruned.push_back(simulate(shape, [&](int, const std::set<int>& cached) {
        if (cached.size() < 80) return cached;
        const auto count = static_cast<int>(std::ceil(0.75 * static_cast<double>(cached.size())));
        return reference::top(shortest_first(layer, h, cached), static_cast<int>(contents.token_ids.size()), count);
      }));
    }
    EXPECT_EQ(evict(contents, "knorm", 40, l), once);
    EXPECT_EQ(evict(contents, "knorm@original:keep_ratio=0.75,prune_after=80", 60, l), pruned);
    const Rows released = evict(contents, "knorm@released", 40, l);
    for (int h = 0; h < shape.query_heads; ++h)
      EXPECT_EQ(released[static_cast<std::size_t>(h)], l < 2 ? std::vector<std::int32_t>(contents.token_ids.size(), -1)
                                                             : once[static_cast<std::size_t>(h / layer.group())]);
  }
}

TEST(PolicyReference, PyramidKv) {
  Shape shape = shape_of(52);
  shape.layers = 4;
  const auto contents = reference::random_contents(shape);
  for (const int budget : {28, 48, 60}) {  // a slope, a clamped first layer, and the uniform branch (P < 2B)
    const int base = budget - window, columns = shape.prompt - window;
    std::int64_t paper = 0;
    for (int l = 0; l < shape.layers; ++l) {
      const Layer layer{contents, l};
      int smallest = base / 20, largest = 2 * base - smallest;
      if (largest >= columns) largest = columns, smallest = 2 * base - largest;
      const int capacity = shape.prompt < 2 * base ? base : largest - l * ((largest - smallest) / (shape.layers - 1));
      const Rows released = evict(contents, "pyramidkv@released:window=8", budget, l);
      for (int h = 0; h < shape.query_heads; ++h)
        EXPECT_EQ(released[static_cast<std::size_t>(h)],
                  best_and_window(shape, average(window_sum(layer, shape, h), 5), capacity))
            << budget << " layer " << l;
      const Rows rows = evict(contents, "pyramidkv:window=8", budget, l);
      const double first = std::min(2 * base - base / 20.0, static_cast<double>(columns)), last = 2 * base - first;
      const auto kept = static_cast<int>(std::count(rows[0].begin(), rows[0].begin() + columns, -1));
      EXPECT_NEAR(kept, first - l * (first - last) / (shape.layers - 1), 1);  // the sum over layers is rounded, not each
      for (int g = 0; g < shape.kv_heads; ++g)
        EXPECT_EQ(rows[static_cast<std::size_t>(g)], best_and_window(shape, average(group_mean(layer, shape, g), 5), kept))
            << budget << " layer " << l;
      paper += kept;
    }
    EXPECT_EQ(paper, shape.layers * base);
  }
}

// c_h: how many of the H · B best of the layer are head h's; half to even after the blend with the floor.
TEST(PolicyReference, AdaKv) {
  const Shape shape = shape_of(53);
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  const int budget = 30, base = budget - window;
  std::vector<std::vector<double>> score;
  std::vector<std::pair<double, int>> all;
  for (int h = 0; h < shape.query_heads; ++h) {
    score.push_back(average(window_sum(layer, shape, h), 5));
    double total = 0, best = 0;
    for (const double s : score.back()) total += s;
    for (const int j : reference::top(score.back(), static_cast<int>(score.back().size()), base))
      best += score.back()[static_cast<std::size_t>(j)];
    for (const double s : score.back()) all.emplace_back(s * best / total, h);
  }
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<int> count(static_cast<std::size_t>(shape.query_heads), 0);
  for (int k = 0; k < shape.query_heads * base; ++k)
    ++count[static_cast<std::size_t>(all[static_cast<std::size_t>(k)].second)];
  const Rows rows = evict(contents, "adakv@released:window=8", budget);
  for (int h = 0; h < shape.query_heads; ++h) {
    const auto blended =
        static_cast<float>(count[static_cast<std::size_t>(h)]) * 0.8F + static_cast<float>(static_cast<int>(base * 0.2));
    EXPECT_EQ(rows[static_cast<std::size_t>(h)],
              best_and_window(shape, score[static_cast<std::size_t>(h)], static_cast<int>(std::nearbyint(blended))))
        << "head " << h;
  }
}

// The paper's form, per KV head and without weighting: within one token of the blend, together exactly H · B.
TEST(PolicyReference, AdaKvPaper) {
  const Shape shape = shape_of(54);
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  const int budget = 30, base = budget - window, columns = shape.prompt - window;
  std::vector<std::vector<double>> score;
  std::vector<std::pair<double, int>> all;
  for (int g = 0; g < shape.kv_heads; ++g) {
    score.push_back(average(group_mean(layer, shape, g), 5));
    for (const double s : score.back()) all.emplace_back(s, g);
  }
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  const Rows rows = evict(contents, "adakv:window=8,pooling=avg,kernel=5", budget);
  int together = 0;
  for (int g = 0; g < shape.kv_heads; ++g) {
    const auto own = std::count_if(all.begin(), all.begin() + shape.kv_heads * base,
                                   [&](const auto& entry) { return entry.second == g; });
    const auto kept = static_cast<int>(
        std::count(rows[static_cast<std::size_t>(g)].begin(), rows[static_cast<std::size_t>(g)].begin() + columns, -1));
    EXPECT_NEAR(kept, 0.8 * static_cast<double>(own) + static_cast<int>(0.2 * base), 1);
    EXPECT_EQ(rows[static_cast<std::size_t>(g)], best_and_window(shape, score[static_cast<std::size_t>(g)], kept));
    together += kept;
  }
  EXPECT_EQ(together, shape.kv_heads * base);
}

TEST(PolicyReference, Ablations) {
  const Shape shape = shape_of(55);
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  const int budget = 25;
  const Rows attn = evict(contents, "ablation@released:indicator=attn,window=8", budget),
             attn_v = evict(contents, "ablation@released:indicator=attn-v,window=8", budget),
             last = evict(contents, "ablation@released:indicator=reconstruction,temporal=none,window=8", budget);
  for (int h = 0; h < shape.query_heads; ++h) {
    auto score = window_sum(layer, shape, h);
    EXPECT_EQ(attn[static_cast<std::size_t>(h)], best_and_window(shape, average(score, 5), budget - window));
    std::vector<double> weighted = score;
    const auto a = layer.attention(h, shape.prompt - 1, layer.visible(shape.prompt - 1));
    std::vector<double> output(static_cast<std::size_t>(shape.head_dim), 0.0), removal(score.size());
    const auto value = [&](std::size_t j) {
      std::vector<double> v;
      for (int i = 0; i < shape.head_dim; ++i) v.push_back(layer.v(h, static_cast<int>(j), i));
      return v;
    };
    for (std::size_t j = 0; j < score.size(); ++j) {
      weighted[j] *= reference::norm(value(j));
      for (std::size_t i = 0; i < output.size(); ++i) output[i] += a[j] * value(j)[i];  // the prefix alone, as released
    }
    for (std::size_t j = 0; j < score.size(); ++j)
      removal[j] = a[j] / (1 - a[j]) * reference::norm(layer.projected(h, reference::difference(output, value(j))));
    EXPECT_EQ(attn_v[static_cast<std::size_t>(h)], best_and_window(shape, average(weighted, 5), budget - window));
    EXPECT_EQ(last[static_cast<std::size_t>(h)], best_and_window(shape, removal, budget - window));
  }
}

}  // namespace
}  // namespace kvreplay
