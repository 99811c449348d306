// Do the policies that look at keys and values alone keep what their definitions say? Plain float64 references.
#include <gtest/gtest.h>

#include "tests/unit/policy_reference.h"

namespace kvreplay {
namespace {

using reference::evict;
using reference::kept_once;
using reference::row_of;
using reference::Rows;
using reference::Shape;
using reference::shape_of;
using reference::Vector;

// -cos(k_t, mean of the unit keys of `set`) by position; -2 (below any) outside.
Vector key_differences_of(const Tensor<float, 3>& key, int h, const std::set<int>& set) {
  Vector anchor(static_cast<std::size_t>(key.dim(2)), 0.0), score(static_cast<std::size_t>(key.dim(1)), -2.0);
  for (const int t : set) {
    const Vector k = row_of(key, h, t);
    for (std::size_t i = 0; i < k.size(); ++i) anchor[i] += k[i] / reference::norm(k);
  }
  for (const int t : set) {
    const Vector k = row_of(key, h, t);
    double dot = 0;
    for (std::size_t i = 0; i < k.size(); ++i) dot += k[i] * anchor[i];
    score[static_cast<std::size_t>(t)] = -dot / reference::norm(k) / reference::norm(anchor);
  }
  return score;
}

std::set<int> numbers(int begin, int end) {
  std::set<int> set;
  for (int t = begin; t < end; ++t) set.insert(t);
  return set;
}

TEST(PolicyReference, KeyDiff) {
  const Shape shape = shape_of(20);
  const auto contents = reference::random_contents(shape);
  const auto& key = contents.tensors.at({0, LayerDataset::key});
  for (const int budget : {1, 20, 89}) {
    Rows once, streamed;
    for (int h = 0; h < shape.kv_heads; ++h) {
      const Vector score = key_differences_of(key, h, numbers(0, shape.prompt));
      once.push_back(kept_once(shape, reference::top(score, shape.prompt, budget)));
      std::set<int> cache = numbers(0, budget);
      for (int t = budget; t < shape.prompt; t += 16) {
        cache.merge(numbers(t, std::min(t + 16, shape.prompt)));
        cache = reference::top(key_differences_of(key, h, cache), shape.prompt, budget);
      }
      streamed.push_back(kept_once(shape, cache));
    }
    EXPECT_EQ(evict(contents, "keydiff@kvpress", budget), once) << budget;
    EXPECT_EQ(evict(contents, "keydiff:chunk=16", budget), streamed) << budget;
  }
}

// softmax over `lag` rows from `begin` on of the deviation over channels, scaled by the range of the lag rows after them.
Vector lag_scores_of(const Tensor<float, 3>& rows, int h, int begin, int lag) {
  Vector spread;
  double total = 0;
  for (int t = begin; t < begin + lag; ++t) {
    Vector z;
    double mean = 0, variance = 0;
    for (int i = 0; i < rows.dim(2); ++i) {
      double low = 1e300, high = -1e300;
      for (int u = begin + lag; u < begin + 2 * lag; ++u) low = std::min<double>(low, rows(h, u, i));
      for (int u = begin + lag; u < begin + 2 * lag; ++u) high = std::max<double>(high, rows(h, u, i));
      z.push_back((rows(h, t, i) - low) / (high - low));
      mean += z.back() / static_cast<double>(rows.dim(2));
    }
    for (const double x : z) variance += (x - mean) * (x - mean) / static_cast<double>(rows.dim(2) - 1);
    spread.push_back(std::exp(std::sqrt(variance)));
    total += spread.back();
  }
  for (double& s : spread) s /= total;
  return spread;
}

TEST(PolicyReference, LagKv) {
  const Shape shape = shape_of(21);  // 90 = 3 sinks + 5 blocks of 16 + 7
  const auto contents = reference::random_contents(shape);
  const auto &key = contents.tensors.at({0, LayerDataset::key}), &value = contents.tensors.at({0, LayerDataset::value});
  for (const bool cross : {false, true}) {
    for (const int budget : {10, 45, 80}) {
      Rows want;
      for (int h = 0; h < shape.kv_heads; ++h) {
        Vector score(static_cast<std::size_t>(shape.prompt), 1.0);
        for (int begin = 3; begin < 3 + 4 * 16; begin += 16) {
          const Vector k = lag_scores_of(key, h, begin, 16), v = lag_scores_of(value, h, begin, 16);
          for (std::size_t i = 0; i < 16; ++i) {
            int below = 0;
            for (std::size_t j = 0; j < 16; ++j) below += k[j] + v[j] < k[i] + v[i] ? 1 : 0;
            score[static_cast<std::size_t>(begin) + i] = cross ? (k[i] + v[i]) / 2 : below / 16.0;
          }
        }
        want.push_back(kept_once(shape, reference::top(score, shape.prompt, budget)));
      }
      const std::string policy = std::string("lagkv@kvpress:sinks=3,lag=16,cross_scoring=") + (cross ? "true" : "false");
      EXPECT_EQ(evict(contents, policy, budget), want) << policy << " " << budget;
    }
  }
}

TEST(PolicyReference, LagKvOriginal) {
  Shape shape = shape_of(22);
  shape.steps = 30;
  const auto contents = reference::random_contents(shape);
  const auto &key = contents.tensors.at({0, LayerDataset::key}), &value = contents.tensors.at({0, LayerDataset::value});
  Rows want;
  for (int h = 0; h < shape.kv_heads; ++h) {
    std::vector<std::int32_t> row(static_cast<std::size_t>(shape.prompt + shape.steps), -1);
    for (int begin = 3; begin + 32 <= shape.prompt + shape.steps; begin += 16) {
      Vector score = lag_scores_of(key, h, begin, 16);
      const Vector v = lag_scores_of(value, h, begin, 16);
      for (std::size_t i = 0; i < 16; ++i) score[i] += 0.5 * v[i];
      const auto kept = reference::top(score, 16, 5);  // int(0.35 · 16)
      for (int i = 0; i < 16; ++i)
        if (kept.count(i) == 0) row[static_cast<std::size_t>(begin + i)] = std::max(0, begin + 32 - shape.prompt);
    }
    want.push_back(row);
  }
  EXPECT_EQ(evict(contents, "lagkv@original:sinks=3,lag=16,ratio=0.35,value_weight=0.5", 40), want);
  EXPECT_GT(*std::max_element(want[0].begin(), want[0].end()), 0) << "nothing was evicted while decoding";
}

TEST(LagKv, KeepsSinksAndTheNewestOfAShortPrompt) {
  const Shape shape = shape_of(23);
  std::set<int> kept = numbers(0, 4);
  kept.merge(numbers(shape.prompt - 16, shape.prompt));
  const Rows rows = evict(reference::random_contents(shape), "lagkv@kvpress:sinks=4,lag=44", 20);  // 90 < 4 + 2 · 44
  EXPECT_EQ(rows, Rows(2, kept_once(shape, kept)));
}

// (x - low) / 0: all scores of the block before the constant channel are NaN, which torch's topk puts first.
TEST(LagKv, AConstantChannelRanksItsBlockFirstAndSaysSo) {
  const Shape shape = shape_of(24);
  auto contents = reference::random_contents(shape);
  for (int t = 20; t < 36; ++t) contents.tensors.at({0, LayerDataset::value})(1, t, 5) = 0.25F;
  const auto trace = make_memory_trace(contents);
  const auto backend = make_cpu_backend();
  LayerWorkspace workspace(*trace, 0, *backend);
  const auto policy = make_policy(parse_policy("lagkv@kvpress:sinks=4,lag=16,cross_scoring=true"));
  const Rows rows = reference::rows_of(policy->evict(workspace, 16).evicted_at);
  EXPECT_EQ(rows[1], kept_once(shape, numbers(4, 20)));
  const auto remarks = workspace.take_remarks();
  ASSERT_EQ(remarks.size(), 1U);
  EXPECT_NE(remarks[0].find("channel 5 of value head 1 is constant"), std::string::npos) << remarks[0];
  EXPECT_TRUE(workspace.take_remarks().empty());
}

}  // namespace
}  // namespace kvreplay
