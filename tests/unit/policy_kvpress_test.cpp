// The kvpress variants against plain float64 references that share nothing with the stages: a press gives every prompt
// token a score, protected ones the largest + 1, and the best stay.
#include <gtest/gtest.h>

#include <numeric>

#include "core/base/error.h"
#include "core/policy/stages/kvpress.h"
#include "core/policy/stages/scorers.h"
#include "tests/unit/policy_reference.h"

namespace kvreplay {
namespace {

using reference::evict;
using reference::kept_once;
using reference::Layer;
using reference::Rows;
using reference::Shape;
using reference::shape_of;

using Scores = std::vector<std::vector<double>>;  // [H][P]

Rows best(const Shape& shape, const Scores& scores, int budget) {
  Rows rows;
  for (const auto& row : scores) rows.push_back(kept_once(shape, reference::top(row, shape.prompt, budget)));
  return rows;
}

void force(Scores& scores, int first, int end) {
  double largest = -1e300;
  for (const auto& row : scores)
    for (std::size_t j = 0; j < row.size(); ++j)
      if (static_cast<int>(j) < first || static_cast<int>(j) >= end) largest = std::max(largest, row[j]);
  for (auto& row : scores) std::fill(row.begin() + first, row.begin() + end, largest + 1);
}

Scores no_scores(const Shape& shape, int heads) {
  return Scores(static_cast<std::size_t>(heads), std::vector<double>(static_cast<std::size_t>(shape.prompt), 0.0));
}

// Mean attention of the last W queries, `weight(t)` times that of the query at t, averaged over `kernel` positions of the
// prefix with zeros outside; the window forced.
template <class Weight>
Scores window_scores(const Layer& layer, const Shape& shape, int window, int kernel, Weight weight) {
  Scores scores = no_scores(shape, shape.kv_heads);
  const int prefix = shape.prompt - window;
  for (int h = 0; h < shape.query_heads; ++h)
    for (int t = prefix; t < shape.prompt; ++t) {
      const auto a = layer.attention(h, t, layer.visible(t));
      for (int j = 0; j < prefix; ++j)
        for (int i = std::max(0, j - kernel / 2); i <= std::min(prefix - 1, j + kernel / 2); ++i)
          scores[static_cast<std::size_t>(h / layer.group())][static_cast<std::size_t>(j)] +=
              a[static_cast<std::size_t>(i)] * weight(t) / (kernel * window * layer.group());
    }
  force(scores, prefix, shape.prompt);
  return scores;
}

Scores snapkv_scores(const Layer& layer, const Shape& shape, int window, int kernel) {
  return window_scores(layer, shape, window, kernel, [](int) { return 1.0; });
}

// Mean over the group of the L1 norm of W_o v.
Scores projected_norms(const Layer& layer, const Shape& shape) {
  Scores norms = no_scores(shape, shape.kv_heads);
  for (int h = 0; h < shape.query_heads; ++h)
    for (int t = 0; t < shape.prompt; ++t) {
      std::vector<double> value;
      for (int i = 0; i < shape.head_dim; ++i) value.push_back(layer.v(h, t, i));
      for (const double x : layer.projected(h, value))
        norms[static_cast<std::size_t>(h / layer.group())][static_cast<std::size_t>(t)] += std::abs(x) / layer.group();
    }
  return norms;
}

TEST(Kvpress, RatioKeepsExactlyTheBudgetAndIsTheLargestToDoSo) {
  for (const std::int64_t length : {1, 2, 7, 90, 100, 384, 430, 1000, 8191}) {
    for (std::int64_t budget = 1; budget <= length; ++budget) {
      const double ratio = kvpress_ratio(length, budget),
                   most = 1 - static_cast<double>(budget) / static_cast<double>(length);
      ASSERT_EQ(truncated(static_cast<double>(length) * (1 - ratio)), budget) << length;
      ASSERT_LE(ratio, most);
      if (ratio < most) {
        ASSERT_LT(truncated(static_cast<double>(length) * (1 - std::nextafter(ratio, 1.0))), budget) << length;
      }
    }
  }
  EXPECT_LT(kvpress_ratio(100, 9), 0.91) << "int(100 · (1 - 0.91)) is 8";
  EXPECT_EQ(kvpress_ratio(430, 118), 0.7255813953488371);
  EXPECT_EQ(kvpress_ratio(10, 11), 0);
}

TEST(Kvpress, SnapKv) {
  const Shape shape = shape_of(101);
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  for (const auto& [window, kernel] : {std::pair{16, 5}, {1, 1}, {40, 21}, {89, 3}})
    for (const int budget : {7, 16, 50, 89})  // 7 is below most windows: the oldest of the window stay
      EXPECT_EQ(
          evict(contents, "snapkv@kvpress:window=" + std::to_string(window) + ",kernel=" + std::to_string(kernel), budget),
          best(shape, snapkv_scores(layer, shape, window, kernel), budget))
          << window << " " << budget;
}

TEST(Kvpress, AWindowOverTheWholePromptIsRefused) {
  try {
    evict(reference::random_contents(shape_of(102)), "snapkv@kvpress:window=90", 50);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("no more than the window of 90"), std::string::npos) << error.what();
  }
}

TEST(Kvpress, Tova) {
  const Shape shape = shape_of(103);
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  Scores mean = no_scores(shape, 1), own = no_scores(shape, shape.query_heads);
  for (int h = 0; h < shape.query_heads; ++h) {
    const auto a = layer.attention(h, shape.prompt - 1, layer.visible(shape.prompt - 1));
    for (std::size_t j = 0; j < mean[0].size(); ++j) {
      mean[0][j] += a[j] / shape.query_heads;
      own[static_cast<std::size_t>(h)][j] = a[j];
    }
  }
  for (auto* scores : {&mean, &own}) force(*scores, shape.prompt - 1, shape.prompt);
  for (const int budget : {1, 30, 89}) {
    EXPECT_EQ(evict(contents, "tova@kvpress", budget), best(shape, mean, budget)) << budget;
    EXPECT_EQ(evict(contents, "tova@derived", budget), best(shape, own, budget)) << budget;
  }
}

TEST(Kvpress, StreamingLlmKnormObservedAttention) {
  const Shape shape = shape_of(104);
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  Scores norm = no_scores(shape, shape.kv_heads), observed = norm;
  for (int h = 0; h < shape.query_heads; ++h) {
    const auto g = static_cast<std::size_t>(h / layer.group());
    for (int t = 0; t < shape.prompt; ++t) {
      std::vector<double> key;
      for (int i = 0; i < shape.head_dim; ++i) key.push_back(layer.k(h, t, i));
      norm[g][static_cast<std::size_t>(t)] = -reference::norm(key);
      const auto a = layer.attention(h, t, layer.visible(t));
      for (int j = 0; j <= t; ++j)
        observed[g][static_cast<std::size_t>(j)] += a[static_cast<std::size_t>(j)] / (shape.prompt - j) / layer.group();
    }
  }
  for (const int budget : {2, 4, 5, 40, 89}) {
    std::set<int> kept;  // 2 and 4: the budget is no larger than the sinks
    for (int t = 0; t < shape.prompt; ++t)
      if (t < std::min(4, budget) || t >= shape.prompt - std::max(0, budget - 4)) kept.insert(t);
    EXPECT_EQ(evict(contents, "streaming_llm@kvpress", budget), Rows(2, kept_once(shape, kept))) << budget;
    EXPECT_EQ(evict(contents, "knorm@kvpress", budget), best(shape, norm, budget)) << budget;
    EXPECT_EQ(evict(contents, "observed_attention@kvpress", budget), best(shape, observed, budget)) << budget;
  }
}

TEST(Kvpress, PyramidRoundsHalfToEvenClampsAndFallsBack) {
  struct Case {
    int budget, beta, window;
    std::vector<int> kept;
  };
  const std::vector<Case> cases = {
      {24, 4, 4, {42, 38, 33, 28, 24, 20, 15, 10, 6}},    // 42 - 4.5 l
      {36, 9, 4, {60, 54, 48, 42, 36, 30, 24, 18, 12}},   // the largest may not reach into the window: 68 becomes 60
      {24, 4, 7, {24, 24, 24, 24, 24, 24, 24, 24, 24}}};  // the smallest, 6, would not hold the window
  Shape shape = shape_of(105);
  shape.layers = 9;
  shape.prompt = 64;
  const auto contents = reference::random_contents(shape);
  for (const Case& c : cases)
    for (int l = 0; l < shape.layers; ++l)
      EXPECT_EQ(evict(contents,
                      "pyramidkv@kvpress:kernel=5,beta=" + std::to_string(c.beta) + ",window=" + std::to_string(c.window),
                      c.budget, l),
                best(shape, snapkv_scores(Layer{contents, l}, shape, c.window, 5), c.kept[static_cast<std::size_t>(l)]))
          << l;
}

// How many of the layer's best H · M scores each head holds, its own best `safe` coming first.
std::vector<int> head_budgets(const Scores& scores, int budget, int safe) {
  std::vector<double> flat;
  for (auto row : scores) {
    for (const int j : reference::top(row, static_cast<int>(row.size()), safe)) row[static_cast<std::size_t>(j)] = 1e300;
    flat.insert(flat.end(), row.begin(), row.end());
  }
  std::vector<int> counts(scores.size());
  for (const int i : reference::top(flat, static_cast<int>(flat.size()), budget * static_cast<int>(scores.size())))
    ++counts[static_cast<std::size_t>(i) / scores[0].size()];
  return counts;
}

TEST(Kvpress, AdaKv) {
  const Shape shape = shape_of(106);
  const auto contents = reference::random_contents(shape);
  const auto scores = snapkv_scores(Layer{contents}, shape, 8, 5);
  std::set<std::vector<int>> seen;
  for (const auto& [safeguard, safe] : {std::pair{"0", 0}, {"0.2", 8}, {"0.99", 39}}) {
    const auto budgets = head_budgets(scores, 40, safe);
    Rows want;
    for (std::size_t h = 0; h < scores.size(); ++h)
      want.push_back(kept_once(shape, reference::top(scores[h], shape.prompt, budgets[h])));
    EXPECT_EQ(evict(contents, std::string("adakv@kvpress:window=8,safeguard=") + safeguard, 40), want) << safeguard;
    seen.insert(budgets);
  }
  EXPECT_EQ(seen.size(), 2U) << "0.99 binds, 0.2 does not";
}

// The best `first` by score, then by (score + 1e-4) · size of the projected value.
std::set<int> two_stages(const std::vector<double>& score, const std::vector<double>& size, int budget, int first) {
  std::vector<double> second(score.size());
  for (std::size_t j = 0; j < score.size(); ++j) second[j] = (score[j] + 1e-4) * size[j];
  for (const int j : reference::top(score, static_cast<int>(score.size()), first))
    second[static_cast<std::size_t>(j)] = 1e300;
  return reference::top(second, static_cast<int>(score.size()), budget);
}

TEST(Kvpress, CriticalKvAndCriticalAdaKv) {
  const Shape shape = shape_of(107);
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  const auto scores = snapkv_scores(layer, shape, 8, 5), sizes = projected_norms(layer, shape);
  for (const auto& [first_stage, share] : {std::pair{"0", 0.0}, {"0.5", 0.5}, {"1", 1.0}}) {
    const std::string keys = std::string("window=8,first_stage=") + first_stage;
    for (const int budget : {5, 41}) {
      const auto budgets = head_budgets(scores, budget, budget * 9 / 10);
      Rows want, adaptive;
      for (std::size_t h = 0; h < scores.size(); ++h) {
        want.push_back(kept_once(shape, two_stages(scores[h], sizes[h], budget, static_cast<int>(budget * share))));
        const int first = std::max(budget * 9 / 10, static_cast<int>(budgets[h] * share));
        adaptive.push_back(kept_once(shape, two_stages(scores[h], sizes[h], budgets[h], first)));
      }
      EXPECT_EQ(evict(contents, "criticalkv@kvpress:" + keys, budget), want) << keys << " " << budget;
      EXPECT_EQ(evict(contents, "critical_adakv@kvpress:safeguard=0.9," + keys, budget), adaptive) << keys << " " << budget;
    }
  }
}

TEST(Kvpress, ChunkKv) {
  const Shape shape = shape_of(108);
  const auto contents = reference::random_contents(shape);
  const auto scores = snapkv_scores(Layer{contents}, shape, 8, 5);
  for (const int chunk : {7, 20, 90, 91})       // 90 = 12 · 7 + 6 = 4 · 20 + 10
    for (const int budget : {1, 13, 45, 88}) {  // 1: at least one chunk
      std::vector<double> sum(static_cast<std::size_t>(shape.prompt), 0.0), mean;
      for (const auto& row : scores)
        for (std::size_t j = 0; j < sum.size(); ++j) sum[j] += row[j];
      for (int first = 0; first < shape.prompt; first += chunk) {
        const int length = std::min(chunk, shape.prompt - first);
        mean.push_back(std::accumulate(sum.begin() + first, sum.begin() + first + length, 0.0) / length);
      }
      const auto chunks = static_cast<int>(mean.size());
      std::set<int> kept = chunk > shape.prompt ? reference::top(sum, shape.prompt, budget) : std::set<int>{};
      if (chunk <= shape.prompt)
        for (const int c : reference::top(mean, chunks, std::max(1, chunks * budget / shape.prompt)))
          for (int j = c * chunk; j < std::min((c + 1) * chunk, shape.prompt); ++j) kept.insert(j);
      EXPECT_EQ(evict(contents, "chunkkv@kvpress:window=8,chunk=" + std::to_string(chunk), budget),
                Rows{kept_once(shape, kept)})
          << chunk << " " << budget;
    }
}

TEST(Kvpress, Finch) {
  const Shape shape = shape_of(109);
  const auto contents = reference::random_contents(shape);
  const auto scores = window_scores(Layer{contents}, shape, 20, 1, [](int t) { return static_cast<double>(t); });
  for (const int budget : {15, 31, 89})
    EXPECT_EQ(evict(contents, "finch@kvpress:window=20", budget), best(shape, scores, budget)) << budget;
  EXPECT_EQ(evict(contents, "finch@kvpress:window=20,normalize=false", 31),
            best(shape, snapkv_scores(Layer{contents}, shape, 20, 1), 31));
  EXPECT_EQ(evict(contents, "finch@kvpress:window=20,count=visible", 31),
            best(shape, window_scores(Layer{contents}, shape, 20, 1, [](int t) { return t + 1.0; }), 31));
  Rows want;  // half of each run of 40, 40 and 10 tokens
  for (const auto& row : scores) {
    std::set<int> kept;
    for (const auto& [first, length] : {std::pair{0, 40}, {40, 40}, {80, 10}})
      for (const int j : reference::top({row.begin() + first, row.begin() + first + length}, length, length / 2))
        kept.insert(first + j);
    want.push_back(kept_once(shape, kept));
  }
  EXPECT_EQ(evict(contents, "finch@kvpress:window=20,chunk=40", 45), want);
}

TEST(Kvpress, EveryScorerIsABaseWithItsOwnKeysAlone) {
  const Shape shape = shape_of(110);
  const auto contents = reference::random_contents(shape);
  for (const std::string& base : scorer_names())
    for (const std::string name : {"adakv@kvpress", "criticalkv@kvpress", "critical_adakv@kvpress", "chunkkv@kvpress"}) {
      std::string policy = name + ":base=" + base;
      if (parse_policy(policy).values.has("window")) policy += ",window=16";
      std::int64_t kept = 0;
      for (const auto& row : evict(contents, policy, 45)) kept += std::count(row.begin(), row.begin() + shape.prompt, -1);
      EXPECT_GT(kept, 0) << policy;
      if (name != "chunkkv@kvpress") {
        EXPECT_EQ(kept, 45 * shape.kv_heads) << policy;
      }
    }
}

TEST(Kvpress, AKeyThatTheBaseDoesNotHaveIsRefused) {
  const auto refusal = [](const std::string& text) -> std::string {
    try {
      parse_policy(text);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal("adakv@kvpress:base=knorm,kernel=3"),
            "policy adakv@kvpress: \"kernel\" means nothing here; it goes with base=snapkv");
  EXPECT_EQ(refusal("adakv@kvpress:base=streaming_llm,sinks=2"), "");
  EXPECT_EQ(refusal("adakv@paper:base=snapkv").substr(0, 48), "policy adakv@paper: has no parameter \"base\"; it ");
  EXPECT_EQ(parse_policy("adakv@kvpress:base=streaming_llm").text(),
            "adakv@kvpress:safeguard=0.2,base=streaming_llm,sinks=4");
}

}  // namespace
}  // namespace kvreplay
