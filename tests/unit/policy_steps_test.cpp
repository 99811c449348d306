// Do policies by step and by table keep what their definitions say? Each against a plain float64 reference.
#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>

#include "core/base/error.h"
#include "core/policy/head_table.h"
#include "tests/unit/policy_reference.h"

namespace kvreplay {
namespace {

using namespace reference;  // NOLINT(google-build-using-namespace): every test speaks of it

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

// ---- HeadKV ----------------------------------------------------------------------------------------------------------

struct WrittenTable {
  std::string path;
  explicit WrittenTable(const std::string& text) {
    path = testing::TempDir() + "kvreplay_table_" + std::to_string(getpid()) + "_" +
           std::to_string(std::hash<std::string>{}(text)) + ".json";
    std::ofstream(path) << text;
  }
  ~WrittenTable() { std::filesystem::remove(path); }
  WrittenTable(const WrittenTable&) = delete;
  WrittenTable& operator=(const WrittenTable&) = delete;
};

// importances 1..16 in row-major order, as named lists.
std::string rising_table() {
  std::string text;
  for (int i = 0; i < 16; ++i)
    text += (i == 0 ? "{" : ", ") + std::string("\"") + std::to_string(i / 4) + "-" + std::to_string(i % 4) + "\": [" +
            std::to_string(i) + ", " + std::to_string(i + 2) + "]";
  return text + "}";
}

std::int64_t kept_of(const std::vector<std::int32_t>& row, int prompt) {
  return prompt - std::count(row.begin(), row.begin() + prompt, 0);
}

// 512 // 1.01 is 506.0: what Python's float division gives.
TEST(PolicyReference, HeadKvAsPublished) {
  Shape shape = shape_of(36);
  shape.layers = 4;
  shape.prompt = 700;
  const auto contents = random_contents(shape);
  const WrittenTable table(rising_table());
  const auto published = [](double importance, double pooled, double least) {
    return static_cast<std::int64_t>(std::nearbyint(importance / 136 * pooled * 16 + least));
  };
  for (const int layer : {0, 1, 3}) {
    const auto rows = [&](const std::string& policy, int budget) {
      return evict(contents, policy + ",table=" + table.path, budget, layer);
    };
    const Rows released = rows("headkv@released:window=32", 128), original = rows("headkv@original:window=64", 128);
    const Rows grouped = rows("headkv@factory:window=8,granularity=kv_head", 128);
    for (int h = 0; h < 4; ++h) {
      const double importance = 4 * layer + h + 1;
      const auto i = static_cast<std::size_t>(h);
      EXPECT_EQ(kept_of(released[i], shape.prompt), 32 + published(importance, 126, 2)) << layer << " " << h;
      EXPECT_EQ(kept_of(original[i], shape.prompt), 64 + published(importance, 63, 1)) << layer << " " << h;
      if (h % 2 == 0) {
        EXPECT_EQ(
            kept_of(grouped[i / 2], shape.prompt),
            8 + static_cast<int>(std::nearbyint((published(importance, 126, 2) + published(importance + 1, 126, 2)) / 2.)));
      }
    }
  }
}

// Which tokens: the best of the window's mean attention, max-pooled; and how many: the shares of 16 heads with 40 - 8 tokens
// each, of which floor(32 / 1.01) = 31 are pooled. No head is full here.
TEST(PolicyReference, HeadKvPaper) {
  Shape shape = shape_of(37);
  shape.layers = 4;
  const auto contents = random_contents(shape);
  const WrittenTable table(rising_table());
  const int window = 8, prefix = shape.prompt - window;
  std::vector<std::pair<double, int>> remainder;
  std::vector<int> capacity;
  for (int i = 0; i < 8; ++i) {  // importances of KV heads: 1 + 2, 3 + 4, ...
    const double ideal = 1 + (4 * i + 3) / 136. * 31 * 8;
    capacity.push_back(static_cast<int>(ideal));
    remainder.emplace_back(std::floor(ideal) - ideal, i);
  }
  std::sort(remainder.begin(), remainder.end());
  for (int i = 0; std::accumulate(capacity.begin(), capacity.end(), 0) < 32 * 8; ++i)
    ++capacity[static_cast<std::size_t>(remainder[static_cast<std::size_t>(i)].second)];
  for (int l = 0; l < 4; ++l) {
    const Layer layer{contents, l};
    Rows want;
    for (int g = 0; g < 2; ++g) {
      std::vector<double> score(static_cast<std::size_t>(prefix), 0.0), pooled(score);
      for (int h = 2 * g; h < 2 * g + 2; ++h)
        for (int t = prefix; t < shape.prompt; ++t) {
          const auto a = layer.attention(h, t, layer.visible(t));
          for (std::size_t j = 0; j < score.size(); ++j) score[j] += a[j];
        }
      for (int j = 0; j < prefix; ++j)
        for (int i = std::max(0, j - 3); i <= std::min(prefix - 1, j + 3); ++i)
          pooled[static_cast<std::size_t>(j)] =
              std::max(pooled[static_cast<std::size_t>(j)], score[static_cast<std::size_t>(i)]);
      auto kept = top(pooled, prefix, capacity[static_cast<std::size_t>(2 * l + g)]);
      for (int t = prefix; t < shape.prompt; ++t) kept.insert(t);
      want.push_back(kept_once(shape, kept));
    }
    EXPECT_EQ(evict(contents, "headkv:window=8,table=" + table.path, 40, l), want) << l;
  }
}

TEST(PolicySteps, HeadKvPaperGivesWhatAFullHeadCannotUseToTheOthers) {
  Shape shape = shape_of(38);
  const auto contents = random_contents(shape);
  const WrittenTable table("[1000, 1000, 1, 2, 3, 4, 5, 6]");  // a plain list: row-major
  for (const int budget : {33, 60, 89}) {
    std::int64_t kept = 0;
    for (int layer = 0; layer < 2; ++layer)
      for (const auto& row : evict(contents, "headkv:table=" + table.path, budget, layer))
        kept += kept_of(row, shape.prompt);
    EXPECT_EQ(kept, 4 * budget);
  }
  EXPECT_EQ(kept_of(evict(contents, "headkv:table=" + table.path, 60)[0], shape.prompt), shape.prompt) << "full";
}

TEST(PolicySteps, HeadTableRefusalsNameFileAndKey) {
  const auto contents = random_contents(shape_of(39));  // 2 layers of 4 heads
  const auto refused = [&](const std::string& text) {
    const WrittenTable table(text);
    const std::string message = refusal_of([&] { evict(contents, "headkv:table=" + table.path, 40); });
    EXPECT_EQ(message.find(table.path), 0U) << message;
    return message.substr(std::min(message.size(), table.path.size()));
  };
  EXPECT_EQ(refused(R"({"0-0": [1, -2]})").find(": \"0-0\": -2 is no importance"), 0U);
  EXPECT_EQ(refused(R"({"0-0": "1"})").find(": \"0-0\": \"1\" is no importance"), 0U);
  EXPECT_EQ(refused(R"({"0-0": []})").find(": \"0-0\": is an empty list"), 0U);
  EXPECT_EQ(refused("[1, 2").find(": is not JSON"), 0U);
  EXPECT_EQ(refused("7").find(": holds no table"), 0U);
  EXPECT_EQ(refused("[1, 2]").find(": has 2 heads, the model 2 layers of 4 query heads"), 0U);
  EXPECT_EQ(refused("[0, 0, 0, 0, 0, 0, 0, 0]").find(": gives every head the importance 0"), 0U);
  EXPECT_EQ(refused(R"({"0-0":1,"0-1":1,"0-2":1,"0-3":1,"1-0":1,"1-1":1,"1-2":1,"1-4":1})").find(": has no \"1-3\""), 0U);
  EXPECT_EQ(refusal_of([] { parse_policy("headkv:table=/nowhere/t.json"); }).find("/nowhere/t.json: cannot be read"), 0U);
  EXPECT_EQ(
      refusal_of([] { parse_policy("headkv@released"); }).find("policy headkv@released: needs \"table\"; table=...: JSON"),
      0U);
}

TEST(PolicySteps, MeasuredHeadsFollowTheirDefinition) {
  const Shape shape = shape_of(40);
  const auto contents = random_contents(shape);
  const auto trace = make_memory_trace(contents);
  const auto backend = make_cpu_backend();
  LayerWorkspace workspace(*trace, 1, *backend);
  const std::vector<TextSpan> spans = {{10, 14, "needle"}, {30, 32, "needle"}};
  const auto ranked = measure_heads(workspace, spans, HeadMeasure::retrieval_reasoning);
  const auto mass = measure_heads(workspace, spans, HeadMeasure::mass);
  const Layer layer{contents, 1};
  double all = 0;
  for (int h = 0; h < shape.query_heads; ++h) {
    double want_ranked = 0, want_mass = 0;
    for (int t = shape.prompt; t < shape.prompt + shape.steps; ++t) {
      const auto a = layer.attention(h, t, layer.visible(t));
      const auto best = top(a, t + 1, 6);
      for (const int j : {10, 11, 12, 13, 30, 31}) {
        want_mass += a[static_cast<std::size_t>(j)] / shape.steps;
        if (best.count(j) != 0) want_ranked += a[static_cast<std::size_t>(j)] / (6 * shape.steps);
      }
    }
    EXPECT_NEAR(mass[static_cast<std::size_t>(h)], want_mass, 1e-6 * want_mass);  // float32 logits
    EXPECT_NEAR(ranked[static_cast<std::size_t>(h)], want_ranked, 1e-6);
    all += want_ranked;
  }
  EXPECT_GT(all, 0) << "the case says nothing";
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
