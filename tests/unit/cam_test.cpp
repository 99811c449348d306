// Does cam keep and merge what its published forms do? Each against a plain float64 reference.
#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "core/base/error.h"
#include "tests/unit/policy_reference.h"

namespace kvreplay {
namespace {

using namespace reference;  // NOLINT(google-build-using-namespace): every test speaks of it

using Vector = std::vector<double>;
using Values = std::map<std::tuple<int, int, int>, Vector>;  // by step, head and position: changed values

LayerEvictions evictions(const MemoryTraceContents& contents, const std::string& policy, int budget) {
  const auto trace = make_memory_trace(contents);
  const auto backend = make_cpu_backend();
  LayerWorkspace workspace(*trace, 0, *backend);
  return make_policy(parse_policy(policy))->evict(workspace, budget);
}

Values changed_values(const LayerEvictions& result) {
  Values values;
  std::int32_t step = 0;
  for (const auto& row : result.changes.rows) {
    EXPECT_GE(row.step, step) << "rows are not in the order of their steps";
    step = row.step;
    EXPECT_EQ(row.key, -1);
    const float* vector = result.changes.storage.data() + row.value * result.changes.dim;
    values[{row.step, row.head, row.position}] = Vector(vector, vector + result.changes.dim);
  }
  return values;
}

void expect_same(const Values& got, const Values& want) {
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [at, vector] : want) {
    const auto found = got.find(at);
    ASSERT_NE(found, got.end());
    // float32 attention and sums
    for (std::size_t i = 0; i < vector.size(); ++i)
      ASSERT_NEAR(found->second[i], vector[i], 1e-5) << std::get<0>(at) << " " << std::get<1>(at) << " " << std::get<2>(at);
  }
}

double clamped(double a, double reference) { return std::isnan(a / reference) ? 0 : std::min(1.0, a / reference); }

// [T][d] of a query head.
std::vector<Vector> values_of(const Layer& layer, int h) {
  std::vector<Vector> values(layer.trace.token_ids.size());
  for (std::size_t t = 0; t < values.size(); ++t)
    for (int i = 0; i < layer.trace.model.head_dim; ++i) values[t].push_back(layer.v(h, static_cast<int>(t), i));
  return values;
}

void add(Vector& to, const Vector& from, double share) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += share * from[i];
}

// ---- when the prompt ends ----------------------------------------------------------------------------------------------

// Mean attention of the last W prompt queries.
Vector window_mean(const Layer& layer, int h, int prompt, int window) {
  Vector mean(static_cast<std::size_t>(prompt));
  for (int t = prompt - window; t < prompt; ++t) {
    const auto a = layer.attention(h, t, layer.visible(t));
    for (std::size_t j = 0; j < mean.size(); ++j) mean[j] += a[j] / window;
  }
  return mean;
}

TEST(PolicyReference, CamReleased) {
  const Shape shape = shape_of(51);
  const auto contents = random_contents(shape);
  const Layer layer{contents};
  const int window = 8, budget = 30, start = 9;  // ceil(90 / 10)
  Values want;
  Rows rows;
  for (int h = 0; h < shape.query_heads; ++h) {
    const Vector mean = window_mean(layer, h, shape.prompt, window);
    auto kept = top(mean, shape.prompt - window, budget - window);
    for (int t = shape.prompt - window; t < shape.prompt; ++t) kept.insert(t);
    rows.push_back(kept_once(shape, kept));
    auto value = values_of(layer, h);
    for (int p = start; p < shape.prompt - window; ++p) {
      const double here = *std::max_element(mean.begin() + p, mean.begin() + p + window);
      const double first = *std::max_element(mean.begin(), mean.begin() + start);
      const double share = clamped(mean[static_cast<std::size_t>(p)], std::max(first, here)) / window;
      for (int t = p + 1; t <= p + window; ++t)
        add(value[static_cast<std::size_t>(t)], value[static_cast<std::size_t>(p)], share);
    }
    for (const int t : kept)
      if (t > start) want[{0, h, t}] = value[static_cast<std::size_t>(t)];
  }
  const auto result = evictions(contents, "cam@released:window=8,mode=expectation", budget);
  EXPECT_EQ(rows_of(result.evicted_at), rows);
  expect_same(changed_values(result), want);
}

// The first token that is merged: in as many of 400 seeds as its probability says, and then by exactly 1/W.
TEST(PolicySteps, CamDrawsWithItsProbability) {
  const Shape shape = shape_of(52);
  const auto contents = random_contents(shape);
  const Layer layer{contents};
  const int window = 8, start = 9;
  const Vector mean = window_mean(layer, 0, shape.prompt, window);
  const double largest = std::max(*std::max_element(mean.begin(), mean.begin() + start),
                                  *std::max_element(mean.begin() + start, mean.begin() + start + window));
  const double probability = mean[start] / largest;
  ASSERT_GT(probability, 0.1);
  ASSERT_LT(probability, 0.9);
  int merged = 0;
  for (int seed = 0; seed < 400; ++seed) {
    // A budget one below the prompt: nearly every row can be looked at.
    const auto values =
        changed_values(evictions(contents, "cam@released:window=8,seed=" + std::to_string(seed), shape.prompt - 1));
    const auto found = values.find({0, 0, start + 1});
    if (found == values.end()) continue;
    ++merged;
    for (int i = 0; i < shape.head_dim; ++i)
      ASSERT_NEAR(found->second[static_cast<std::size_t>(i)], layer.v(0, start + 1, i) + layer.v(0, start, i) / window,
                  1e-5);
  }
  // 4 standard deviations of a binomial: one false alarm in 16,000 choices of seeds, which are fixed here.
  EXPECT_NEAR(merged, 400 * probability, 4 * std::sqrt(400 * probability * (1 - probability)));
}

// ---- while decoding --------------------------------------------------------------------------------------------------

// StreamingLLM's set; `lead`: by how many tokens the merged one is ahead of what leaves after the step.
void check_streaming(const std::string& policy, int budget, int recent, int lead, bool grouped, int sinks, int neighbours) {
  const Shape shape = shape_of(53);
  const auto contents = random_contents(shape);
  const Layer layer{contents};
  const int sets = grouped ? shape.kv_heads : shape.query_heads, share = shape.query_heads / sets;
  Values want;
  std::vector<std::int32_t> row(contents.token_ids.size(), -1);
  for (int g = 0; g < sets; ++g) {
    auto value = values_of(layer, g * share);
    std::set<int> seen;
    for (int t = 0; t < shape.prompt; ++t) seen.insert(t);
    for (int step = 0; step <= shape.steps; ++step) {
      const int newest = shape.prompt + step - 1, p = newest - recent + lead;
      if (step > 0) {
        seen.insert(newest);
        Vector a(contents.token_ids.size());
        for (int h = g * share; h < (g + 1) * share; ++h) add(a, layer.attention(h, newest, seen), 1. / share);
        const double mean = std::accumulate(a.begin() + p + 1, a.begin() + newest + 1, 0.0) / (newest - p);
        for (int t = p + 1; t <= std::min(newest, p + neighbours); ++t) {
          add(value[static_cast<std::size_t>(t)], value[static_cast<std::size_t>(p)],
              clamped(a[static_cast<std::size_t>(p)], mean) / neighbours);
          want[{step, g, t}] = value[static_cast<std::size_t>(t)];
        }
      }
      for (int t = sinks; t <= newest - recent + lead / 2; ++t)
        if (seen.erase(t) != 0) row[static_cast<std::size_t>(t)] = step;
    }
  }
  const auto result = evictions(contents, policy, budget);
  EXPECT_EQ(rows_of(result.evicted_at), Rows(static_cast<std::size_t>(sets), row)) << policy;
  expect_same(changed_values(result), want);
}

TEST(PolicyReference, CamPaper) { check_streaming("cam:neighbours=5", 24, 20, 0, true, 4, 5); }

// One query to come counts among the recent ones, and what is merged is still seen once.
TEST(PolicyReference, CamOriginal) {
  check_streaming("cam@original:sinks=3,recent=12,mode=expectation", 15, 12, 2, false, 3, 32);
  check_streaming("cam@original:sinks=6,recent=40,neighbours=4,mode=expectation", 46, 40, 2, false, 6, 4);
}

TEST(PolicyReference, CamKvpress) {
  const Shape shape = shape_of(54);
  const auto contents = random_contents(shape);
  const Layer layer{contents};
  const int budget = 40, interval = 3, neighbours = 6;
  for (const bool norms : {false, true}) {
    Values want;
    std::vector<std::int32_t> row(contents.token_ids.size(), -1);
    std::vector<std::vector<Vector>> value = {values_of(layer, 0), values_of(layer, 2)};
    std::vector<Vector> sum(2, Vector(row.size()));
    std::set<int> cached = layer.visible(shape.prompt - 1);
    for (int step = 1; step <= shape.steps; ++step) {
      const int newest = shape.prompt + step - 1;
      cached.insert(newest);
      for (int h = 0; h < 4; ++h) add(sum[static_cast<std::size_t>(h / 2)], layer.attention(h, newest, cached), 0.5);
      if (step % interval != 0) continue;
      std::vector<int> order(cached.begin(), cached.end());  // the worst last: by key norm, or the sinks' successors
      const auto small = [&](int t) {
        Vector k(static_cast<std::size_t>(shape.head_dim)), l(k);
        for (int i = 0; i < shape.head_dim; ++i)
          k[static_cast<std::size_t>(i)] = layer.k(0, t, i), l[static_cast<std::size_t>(i)] = layer.k(2, t, i);
        return norm(k) + norm(l);
      };
      if (norms) std::sort(order.begin(), order.end(), [&](int a, int b) { return small(a) < small(b); });
      if (!norms) std::rotate(order.begin() + 4, order.end() - (budget - 4), order.end());
      std::vector<int> leaving(order.begin() + budget, order.end());
      if (!norms) std::reverse(leaving.begin(), leaving.end());  // all equal: the later first
      for (const int t : leaving) cached.erase(t), row[static_cast<std::size_t>(t)] = step;
      leaving.resize(interval);
      std::sort(leaving.begin(), leaving.end());
      for (int g = 0; g < 2; ++g) {
        const auto s = static_cast<std::size_t>(g);
        for (const int p : leaving) {
          std::vector<int> after(cached.upper_bound(p), cached.end());
          after.resize(std::min<std::size_t>(after.size(), neighbours));
          double mean = 0;
          for (const int t : after) mean += sum[s][static_cast<std::size_t>(t)] / static_cast<double>(after.size());
          for (const int t : after) {
            auto& to = value[s][static_cast<std::size_t>(t)];
            add(to, value[s][static_cast<std::size_t>(p)],
                clamped(sum[s][static_cast<std::size_t>(p)], mean) / static_cast<double>(after.size()));
            want[{step, g, t}] = to;
          }
        }
      }
    }
    const std::string policy =
        std::string("cam@kvpress:mode=expectation,interval=3,neighbours=6,base=") + (norms ? "knorm" : "streaming_llm");
    const auto result = evictions(contents, policy, budget);
    EXPECT_EQ(rows_of(result.evicted_at), Rows{row}) << policy;
    expect_same(changed_values(result), want);
    EXPECT_FALSE(want.empty());
  }
}

TEST(PolicySteps, CamIsTheSameForASeedAndAnotherForAnother) {
  const auto contents = random_contents(shape_of(55));
  const auto values = [&](const std::string& seed) {
    return changed_values(evictions(contents, "cam@original:sinks=3,recent=12,seed=" + seed, 15));
  };
  EXPECT_EQ(values("4"), values("4"));
  EXPECT_NE(values("4"), values("5"));
}

}  // namespace
}  // namespace kvreplay
