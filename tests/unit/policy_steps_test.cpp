// Do policies by step and by table keep what their definitions say? Each against a plain float64 reference.
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/unit/policy_reference.h"

namespace kvreplay {
namespace {

using namespace reference;  // NOLINT(google-build-using-namespace): every test speaks of it

std::string refusal_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// ---- LaCache ---------------------------------------------------------------------------------------------------------

// Compaction as published, on a list of positions; runs of one token, one layer of `layers`.
std::vector<int> compacted(std::vector<int> cache, int layer, int layers, int block, int start, int& size, int& current) {
  const int n = static_cast<int>(cache.size()), drop = block - 1;
  if (n <= size) return cache;
  const int excess = n - size, room = size - current - layers, can = room * drop;
  const auto thin = [&](int from, int count, int width, int offset) {
    std::vector<int> kept(cache.begin(), cache.begin() + from);
    for (int j = 0; j < count; ++j) kept.push_back(cache[static_cast<std::size_t>(from + offset + width * j)]);
    kept.insert(kept.end(), cache.begin() + from + width * count, cache.end());
    cache = kept;
  };
  const int count = excess > can ? room : (excess + drop - 1) / drop;
  thin(current, count, block, layer % (drop + 1));
  current += count;
  if (excess <= can) return cache;
  const int left = excess - can, once = (size - start - layers) * drop, rounds = (left + once - 1) / once;
  const int width = block + (rounds - 1) * (block - 1), again = (left + width - 2) / (width - 1);
  thin(start, again, width, layer % width);
  current = start + again;
  return cache;
}

TEST(PolicyReference, LaCacheAsPublished) {
  Shape shape = shape_of(31);
  shape.layers = 4;  // span 2: blocks of 2; span 1: blocks of 4, of which 1 stays, and the size grows by 1
  const auto contents = random_contents(shape);
  for (const int span : {1, 2})
    for (const int size : {20, 50, 93})
      for (int layer = 0; layer < shape.layers; ++layer) {
        const int block = span == 2 ? 2 : 4;
        int grown = size, current = 3;
        bool first = true;
        std::vector<std::int32_t> row(static_cast<std::size_t>(shape.prompt + shape.steps), -1);
        std::vector<int> cache;
        for (int t = 0; t < shape.prompt; ++t) cache.push_back(t);
        for (int step = 0; step <= shape.steps; ++step) {
          if (step > 0) cache.push_back(shape.prompt + step - 1);
          if (static_cast<int>(cache.size()) > size && first) grown += (block - 1) / 2, first = false;
          const auto kept = compacted(cache, layer, shape.layers, block, 3, grown, current);
          for (const int t : cache)
            if (std::find(kept.begin(), kept.end(), t) == kept.end()) row[static_cast<std::size_t>(t)] = step;
          cache = kept;
        }
        const std::string policy = "lacache@original:start=3,overlap=0,span=" + std::to_string(span);
        EXPECT_EQ(evict(contents, policy + ",size=" + std::to_string(size), size, layer), Rows{row})
            << policy << " size " << size << " layer " << layer;
      }
}

// One token leaves for each that comes: of every block after `start` the tokens but one, whose place rotates with the layer.
TEST(PolicyReference, LaCachePaper) {
  Shape shape = shape_of(32);
  shape.layers = 3;  // span 1: blocks of 3, of which each layer keeps another token
  const auto contents = random_contents(shape);
  for (const int budget : {12, 40, 91})
    for (int layer = 0; layer < shape.layers; ++layer) {
      std::vector<std::int32_t> row(static_cast<std::size_t>(shape.prompt + shape.steps), -1);
      std::vector<int> cache, doomed;  // doomed: what is still to leave of the block that is being thinned
      std::size_t next = 4;            // slot of the block's first token
      for (int t = 0; t < shape.prompt + shape.steps; ++t) {
        cache.push_back(t);
        if (static_cast<int>(cache.size()) <= budget) continue;
        if (doomed.empty()) {
          if (next + 3 + 3 > cache.size()) next = 4;
          for (const int place : {0, 1, 2})
            if (place != layer % 3) doomed.push_back(cache[next + static_cast<std::size_t>(place)]);
          ++next;
        }
        row[static_cast<std::size_t>(doomed.front())] = std::max(0, t + 1 - shape.prompt);
        cache.erase(std::find(cache.begin(), cache.end(), doomed.front()));
        doomed.erase(doomed.begin());
      }
      EXPECT_EQ(evict(contents, "lacache:start=4", budget, layer), Rows{row}) << budget << " layer " << layer;
    }
}

TEST(PolicySteps, LaCacheLayersTogetherHoldMoreThanOne) {
  Shape shape = shape_of(33);
  shape.layers = 4;
  const auto contents = random_contents(shape);
  std::set<std::size_t> together, one;
  for (int layer = 0; layer < shape.layers; ++layer) {
    const auto row = evict(contents, "lacache:start=4", 30, layer)[0];
    for (std::size_t t = 0; t < row.size(); ++t)
      if (row[t] == -1) (layer == 0 ? one : together).insert(t);
  }
  EXPECT_EQ(one.size(), 30U);
  together.insert(one.begin(), one.end());
  EXPECT_GT(together.size(), 36U);
}

TEST(PolicySteps, LaCacheRefusalsNameTheKeys) {
  const auto contents = random_contents(shape_of(34));  // 2 layers
  const auto refused = [&](const std::string& policy, int budget) {
    return refusal_of([&] { evict(contents, policy, budget); });
  };
  EXPECT_EQ(refused("lacache@original:size=40,start=4", 40),
            "policy lacache@original: span=16, overlap=0 drop nothing in a model of 2 layers; a span has to be shorter than "
            "the model and the overlap small enough to leave a step between layers");
  EXPECT_NE(refused("lacache@original:size=40,start=38,span=1", 40).find("size takes at least 41"), std::string::npos);
  EXPECT_NE(refused("lacache@original:span=2,overlap=2", 40).find("\"overlap\" with span=2"), std::string::npos);
  EXPECT_NE(refused("lacache:start=9", 11).find("--budget: 11 tokens leave lacache no room"), std::string::npos);
  EXPECT_EQ(refused("lacache:start=9", 12), "");
}

// ---- H2O, masking form -----------------------------------------------------------------------------------------------

// Sets of what the next query sees; the blind slot is in neither part, and a token that comes back was never evicted.
TEST(PolicyReference, H2oMask) {
  const Shape shape = shape_of(35);
  const auto contents = random_contents(shape);
  const Layer layer{contents};
  for (const auto& [heavy, recent] : {std::pair{20, 7}, {40, 1}, {5, 30}, {88, 8}, {0, 12}}) {
    Rows want;
    for (int h = 0; h < shape.query_heads; ++h) {
      std::vector<double> sum(contents.token_ids.size(), 0.0);
      std::vector<std::int32_t> row(sum.size(), -1);
      const auto accumulate = [&](int t, const std::set<int>& seen) {
        const auto a = layer.attention(h, t, seen);
        for (const int j : seen) sum[static_cast<std::size_t>(j)] += a[static_cast<std::size_t>(j)];
      };
      for (int t = 0; t < shape.prompt; ++t) accumulate(t, layer.visible(t));
      for (int step = 0; step <= shape.steps; ++step) {
        const int n = shape.prompt + step;
        std::set<int> seen = layer.visible(n);
        if (n > heavy + recent) {
          seen = top(sum, n - recent, heavy);
          for (int t = n + 1 - recent; t <= n; ++t) seen.insert(t);
        }
        for (int t = 0; t < n; ++t) {
          std::int32_t& at = row[static_cast<std::size_t>(t)];
          at = seen.count(t) != 0 ? -1 : at < 0 ? step : at;
          if (seen.count(t) == 0 && t < n - recent) sum[static_cast<std::size_t>(t)] = 0;
        }
        if (step < shape.steps) accumulate(n, seen);
      }
      want.push_back(row);
    }
    const std::string policy = "h2o@original_mask:heavy=" + std::to_string(heavy) + ",recent=" + std::to_string(recent);
    EXPECT_EQ(evict(contents, policy, heavy + recent), want) << policy;
  }
}

}  // namespace
}  // namespace kvreplay
