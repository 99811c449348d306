// Does every policy keep what its definition says? Each against a plain float64 reference that shares nothing with the
// stages, then all of them against the rules that hold for any policy.
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/policy/explain.h"
#include "tests/unit/policy_reference.h"

namespace kvreplay {
namespace {

using namespace reference;  // NOLINT(google-build-using-namespace): every test speaks of it

TEST(PolicyReference, StreamingLlm) {
  const Shape shape = shape_of(1);
  for (const int budget : {4, 5, 20, 93, 96}) {
    const auto want = simulate(shape, [&](int, const std::set<int>& cached) {
      if (static_cast<int>(cached.size()) <= budget) return cached;
      std::set<int> kept;
      for (const int t : cached)
        if (t < 4 || t > *cached.rbegin() - (budget - 4)) kept.insert(t);
      return kept;
    });
    EXPECT_EQ(evict(reference::random_contents(shape), "streaming_llm", budget), Rows{want}) << budget;
  }
}

TEST(PolicyReference, Tova) {
  const Shape shape = shape_of(2);
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  for (const int budget : {1, 17, 92}) {
    const auto want = simulate(shape, [&](int step, const std::set<int>& cached) {
      if (static_cast<int>(cached.size()) <= budget) return cached;
      std::vector<double> score(contents.token_ids.size(), -1.0);
      for (const int t : cached) score[static_cast<std::size_t>(t)] = 0;
      for (int h = 0; h < shape.query_heads; ++h) {
        const auto a = layer.attention(h, shape.prompt + step - 1, cached);
        for (const int t : cached) score[static_cast<std::size_t>(t)] += a[static_cast<std::size_t>(t)];
      }
      return reference::top(score, static_cast<int>(score.size()), budget);
    });
    EXPECT_EQ(evict(contents, "tova", budget), Rows{want}) << budget;
  }
}

TEST(PolicyReference, H2o) {
  const Shape shape = shape_of(3);
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  for (const int budget : {1, 2, 31, 94}) {
    const int recent = budget / 2, heavy = budget - recent;
    Rows want;
    for (int g = 0; g < shape.kv_heads; ++g) {
      std::vector<double> sum(contents.token_ids.size(), 0.0);
      const auto accumulate = [&](int t, const std::set<int>& cached) {
        for (int h = g * layer.group(); h < (g + 1) * layer.group(); ++h) {
          const auto a = layer.attention(h, t, cached);
          for (const int j : cached) sum[static_cast<std::size_t>(j)] += a[static_cast<std::size_t>(j)] / layer.group();
        }
      };
      for (int t = 0; t < shape.prompt; ++t) accumulate(t, layer.visible(t));
      want.push_back(simulate(shape, [&](int step, const std::set<int>& cached) {
        if (step > 0) accumulate(shape.prompt + step - 1, cached);
        if (static_cast<int>(cached.size()) <= budget) return cached;
        std::set<int> kept, others = cached;
        for (auto it = cached.rbegin(); static_cast<int>(kept.size()) < recent; ++it) kept.insert(*it);
        std::vector<double> score(sum.size(), -1.0);
        for (const int t : kept) others.erase(t);
        for (const int t : others) score[static_cast<std::size_t>(t)] = sum[static_cast<std::size_t>(t)];
        kept.merge(reference::top(score, static_cast<int>(score.size()), heavy));
        return kept;
      }));
    }
    EXPECT_EQ(evict(contents, "h2o", budget), want) << budget;
  }
}

// Attention of the last W prompt queries of every query head, [Hq][W][T].
std::vector<std::vector<std::vector<double>>> window_rows(const Layer& layer, int prompt, int window) {
  std::vector<std::vector<std::vector<double>>> rows;
  for (int h = 0; h < layer.trace.model.num_query_heads; ++h) {
    rows.emplace_back();
    for (int t = prompt - window; t < prompt; ++t) rows.back().push_back(layer.attention(h, t, layer.visible(t)));
  }
  return rows;
}

TEST(PolicyReference, SnapKv) {
  const Shape shape = shape_of(4);
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  const int prefix = shape.prompt - 32, budget = 50;
  const auto rows = window_rows(layer, shape.prompt, 32);
  Rows want;
  for (int g = 0; g < shape.kv_heads; ++g) {
    std::vector<double> score(static_cast<std::size_t>(prefix), 0.0), pooled(score);
    for (int h = g * layer.group(); h < (g + 1) * layer.group(); ++h)
      for (const auto& row : rows[static_cast<std::size_t>(h)])
        for (std::size_t j = 0; j < score.size(); ++j) score[j] += row[j] / layer.group();
    for (int j = 0; j < prefix; ++j)
      for (int i = std::max(0, j - 3); i <= std::min(prefix - 1, j + 3); ++i)
        pooled[static_cast<std::size_t>(j)] =
            std::max(pooled[static_cast<std::size_t>(j)], score[static_cast<std::size_t>(i)]);
    auto kept = reference::top(pooled, prefix, budget - 32);
    for (int t = prefix; t < shape.prompt; ++t) kept.insert(t);
    want.push_back(kept_once(shape, kept));
  }
  EXPECT_EQ(evict(contents, "snapkv", budget), want);
}

// The paper's form: exact single-removal error of each query and head, group mean, EMA, then the adaptive window from the
// group's mean attention. Scales from 2 on make kernels grow and shift both ways.
TEST(PolicyReference, RestKv) {
  const Shape shape = shape_of(5);
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  const int window = 8, prefix = shape.prompt - window, budget = 30, count = budget - window;
  const auto rows = window_rows(layer, shape.prompt, window);
  for (const double scale : {2.0, 5.0, 2000.0}) {
    Rows want;
    for (int g = 0; g < shape.kv_heads; ++g) {
      std::vector<double> score(static_cast<std::size_t>(prefix), 0.0), pooled(score);
      double older = 0, newer = 0;
      for (int w = 0; w < window; ++w) {
        std::vector<double> error(static_cast<std::size_t>(prefix), 0.0), mean(contents.token_ids.size(), 0.0);
        for (int h = g * layer.group(); h < (g + 1) * layer.group(); ++h) {
          const int t = shape.prompt - window + w;
          const auto& a = rows[static_cast<std::size_t>(h)][static_cast<std::size_t>(w)];
          const auto o = layer.output(h, a);
          for (int j = 0; j < prefix; ++j) {
            auto rest = layer.visible(t);
            rest.erase(j);
            const auto change = reference::difference(layer.output(h, layer.attention(h, t, rest)), o);
            error[static_cast<std::size_t>(j)] += reference::norm(layer.projected(h, change)) / layer.group();
          }
          for (std::size_t j = 0; j < mean.size(); ++j) mean[j] += a[j] / layer.group();
        }
        for (std::size_t j = 0; j < score.size(); ++j) score[j] = w == 0 ? error[j] : 0.3 * error[j] + 0.7 * score[j];
        for (const int j : reference::top(mean, shape.prompt, count))
          (w < window / 2 ? older : newer) += static_cast<double>(j) / count;
      }
      const double drift = (older - newer) / (window / 2);
      const int kernel = std::max(5, 2 * static_cast<int>(std::floor(std::abs(drift) / scale)) + 1);
      const int shift = static_cast<int>(std::trunc(drift / scale));
      for (int j = 0; j < prefix; ++j)
        for (int u = 0; u < kernel; ++u)
          pooled[static_cast<std::size_t>(j)] +=
              score[static_cast<std::size_t>(std::clamp(j - kernel / 2 + shift + u, 0, prefix - 1))] / kernel;
      auto kept = reference::top(pooled, prefix, count);
      for (int t = prefix; t < shape.prompt; ++t) kept.insert(t);
      want.push_back(kept_once(shape, kept));
    }
    EXPECT_EQ(evict(contents, "restkv:window=8,scale=" + std::to_string(scale), budget), want) << scale;
  }
}

TEST(PolicyReference, OracleAttention) {
  const Shape shape = shape_of(6);
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  Rows want;
  for (int g = 0; g < shape.kv_heads; ++g) {
    std::vector<double> mass(static_cast<std::size_t>(shape.prompt), 0.0);
    for (int h = g * layer.group(); h < (g + 1) * layer.group(); ++h)
      for (int s = 0; s < shape.steps; ++s) {
        const auto a = layer.attention(h, shape.prompt + s, layer.visible(shape.prompt + s));
        for (std::size_t j = 0; j < mass.size(); ++j) mass[j] += a[j];
      }
    want.push_back(kept_once(shape, reference::top(mass, shape.prompt, 13)));
  }
  EXPECT_EQ(evict(contents, "oracle_attention", 13), want);
}

TEST(PolicyReference, RandomKeepsTheWindowAndDependsOnSeedLayerAndHead) {
  Shape shape = shape_of(7);
  shape.layers = 2;
  const auto contents = reference::random_contents(shape);
  const Rows rows = evict(contents, "random:seed=5", 40);
  for (const auto& row : rows) {
    EXPECT_EQ(std::count(row.begin(), row.begin() + shape.prompt, -1), 40);
    EXPECT_EQ(std::count(row.begin() + shape.prompt - 32, row.end(), -1), 32 + shape.steps);
  }
  EXPECT_NE(rows[0], rows[1]);
  EXPECT_NE(rows, evict(contents, "random:seed=6", 40));
  EXPECT_NE(rows, evict(contents, "random:seed=5", 40, 1));
  EXPECT_EQ(rows, evict(contents, "random:seed=5", 40));
}

// ---- rules for all policies ------------------------------------------------------------------------------------------

class AnyPolicy : public testing::TestWithParam<std::string> {};

std::vector<std::string> every_policy_and_variant() {
  std::vector<std::string> names;
  for (const auto* policy : policy_registry())
    for (const auto& variant : policy->variants) names.push_back(policy->name + "@" + variant.name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Registry, AnyPolicy, testing::ValuesIn(every_policy_and_variant()), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '@', '_');
  return name;
});

TEST_P(AnyPolicy, PrintsAStringThatMakesItAgain) {
  const PolicySpec spec = parse_policy(complete(GetParam()));
  EXPECT_EQ(parse_policy(spec.text()).text(), spec.text());
  EXPECT_EQ(parse_policy(spec.label()).text(), spec.text());
  EXPECT_NE(explain_policy(*spec.description).find(spec.variant), std::string::npos);
}

// Variants whose published code keeps something else than its budget: head budgets rounded one by one, layers that are
// skipped, sizes of their own. What they keep is checked against the golden cases.
bool keeps_its_budget(const std::string& name) {
  static const std::set<std::string> exceptions = {
      "full@paper",                                                //
      "adakv@released",                                            //
      "knorm@released",   "knorm@original",                        //
      "lacache@original", "h2o@original_mask",                     //
      "cam@kvpress",      "cam@original",                          //
      "headkv@released",  "headkv@factory",    "headkv@original",  //
      "lagkv@original",   "kvzip@kvpress",     "kvzip@original",   //
      "chunkkv@kvpress",                                           //
  };
  return exceptions.count(name) == 0;
}

std::int64_t kept_when_the_prompt_ends(const Rows& rows, int prompt) {
  std::int64_t kept = 0;
  for (const auto& row : rows) kept += prompt - std::count(row.begin(), row.begin() + prompt, 0);
  return kept;
}

TEST_P(AnyPolicy, KeepsItsBudgetToTheTokenWhenThePromptEnds) {
  Shape shape = shape_of(8);
  shape.layers = 3;
  const auto contents = reference::random_contents(shape);
  for (const int budget : {33, 45, 89}) {
    if (!keeps_its_budget(GetParam())) continue;
    std::int64_t kept = 0, heads = 0;
    for (int layer = 0; layer < shape.layers; ++layer) {
      const Rows rows = evict(contents, GetParam(), budget, layer);
      kept += kept_when_the_prompt_ends(rows, shape.prompt);
      heads += static_cast<std::int64_t>(rows.size());
    }
    if (GetParam() == "pyramidkv@released") {
      EXPECT_GE(kept, heads * budget) << "its integer steps exceed the budget";
    } else {
      EXPECT_EQ(kept, heads * budget) << budget;
    }
  }
}

TEST_P(AnyPolicy, EvictsNothingWithABudgetForEverything) {
  const Shape shape = shape_of(9);
  for (const auto& row : evict(reference::random_contents(shape), GetParam(), shape.prompt + shape.steps))
    EXPECT_EQ(std::count(row.begin(), row.end(), -1), shape.prompt + shape.steps);
}

TEST_P(AnyPolicy, IsDeterministicAndHasNoMemory) {
  const Shape shape = shape_of(10);
  const auto contents = reference::random_contents(shape), other = reference::random_contents(shape_of(11));
  const auto policy = make_policy(parse_policy(complete(GetParam())));
  const auto backend = make_cpu_backend();
  const auto run = [&](const MemoryTraceContents& c) {
    const auto trace = make_memory_trace(c);
    LayerWorkspace workspace(*trace, 0, *backend);
    return rows_of(policy->evict(workspace, 40).evicted_at);
  };
  const Rows first = run(contents);
  run(other);
  EXPECT_EQ(run(contents), first);
}

// Kept sets, where a policy gives them, say what evicted_at says, in layers with and without a sliding window.
TEST_P(AnyPolicy, KeptSetsAreItsEvictions) {
  Shape shape = shape_of(13);
  const auto policy = make_policy(parse_policy(complete(GetParam())));
  const auto backend = make_cpu_backend();
  int given = 0;
  for (const int window : {0, 70}) {
    shape.sliding_window = window;
    const auto trace = make_memory_trace(reference::random_contents(shape));
    for (const int budget : {33, 40, 69, 200}) {
      LayerWorkspace workspace(*trace, 0, *backend), fresh(*trace, 0, *backend);
      const auto kept = policy->keep(workspace, budget);
      if (!kept) continue;
      ++given;
      const auto rows = rows_of(evicted_at_of(*kept, workspace.first_candidate(), workspace.prompt(), workspace.tokens()));
      EXPECT_EQ(rows, rows_of(policy->evict(fresh, budget).evicted_at)) << budget << " tokens, window " << window;
    }
  }
  if (GetParam() == "snapkv@paper" || GetParam() == "restkv@released") {
    EXPECT_GE(given, 5);
  }
}

// A replay that is given the generated tokens one by one evicts at each step what the whole replay did.
TEST_P(AnyPolicy, TokenByTokenEqualsInOneGo) {
  if (GetParam().find("oracle") == 0) return;     // looks ahead by definition
  if (GetParam() == "h2o@original_mask") return;  // a token that comes back counts as never evicted
  Shape shape = shape_of(12);
  const auto whole = reference::random_contents(shape);
  const Rows all = evict(whole, GetParam(), 40);
  for (int steps = 0; steps < shape.steps; ++steps) {
    auto shorter = whole;
    const auto tokens = static_cast<std::size_t>(shape.prompt + steps);
    shorter.token_ids.resize(tokens);
    shorter.query_positions.resize(tokens);
    for (auto& [key, tensor] : shorter.tensors) {
      if (key.second == LayerDataset::output_projection) continue;
      Tensor<float, 3> cut({tensor.dim(0), static_cast<std::int64_t>(tokens), tensor.dim(2)});
      for (std::int64_t h = 0; h < cut.dim(0); ++h)
        for (std::int64_t t = 0; t < cut.dim(1); ++t)
          for (std::int64_t i = 0; i < cut.dim(2); ++i) cut(h, t, i) = tensor(h, t, i);
      tensor = std::move(cut);
    }
    const Rows part = evict(shorter, GetParam(), 40);
    for (std::size_t h = 0; h < part.size(); ++h)
      for (std::size_t t = 0; t < part[h].size(); ++t) {
        const std::int32_t then = all[h][t] > steps ? -1 : all[h][t];  // what happens later is not known yet
        ASSERT_EQ(part[h][t], then) << "steps " << steps << " head " << h << " token " << t;
      }
  }
}

// The policy with a window that leaves something to score in a layer that holds 50 tokens.
std::string with_a_window_that_fits(const std::string& name) {
  const PolicySpec spec = parse_policy(complete(name));
  return spec.values.has("window") && spec.values.integer("window") > 32 ? name + ":window=32" : name;
}

TEST_P(AnyPolicy, LeavesTokensOutsideASlidingWindowAlone) {
  Shape shape = shape_of(13);
  shape.sliding_window = 50;
  const auto contents = reference::random_contents(shape);
  std::int64_t kept = 0, heads = 0;
  for (int layer = 0; layer < shape.layers; ++layer) {
    const Rows rows = evict(contents, with_a_window_that_fits(GetParam()), 36, layer);
    for (const auto& row : rows) EXPECT_EQ(std::count(row.begin(), row.begin() + shape.prompt - 50, -1), shape.prompt - 50);
    kept += kept_when_the_prompt_ends(rows, shape.prompt);
    heads += static_cast<std::int64_t>(rows.size());
  }
  if (!keeps_its_budget(GetParam())) return;
  if (GetParam() == "pyramidkv@released") {
    EXPECT_GE(kept, heads * (shape.prompt - 50 + 36));
  } else {
    EXPECT_EQ(kept, heads * (shape.prompt - 50 + 36));
  }
}

// ---- errors -----------------------------------------------------------------------------------------------------------

std::string refusal(const std::string& text) {
  return reference::refusal_of([&] { parse_policy(text); });
}

TEST(PolicyString, RefusalsNameThePolicyTheKeyAndWhatIsAllowed) {
  EXPECT_EQ(refusal("snapvk"), "--policy: unknown policy \"snapvk\"; did you mean \"snapkv\"?");
  EXPECT_EQ(refusal("tova@released"),
            "policy tova: has no variant \"released\"; it has paper, original, kvpress and derived");
  EXPECT_EQ(
      refusal("snapkv:windw=3")
          .find("policy snapkv@paper: has no parameter \"windw\"; it takes window, kernel, pooling, granularity, group, "
                "allocation and beta; every policy takes "),
      0U);
  EXPECT_EQ(
      refusal("snapkv:kernel=4"),
      "policy snapkv@paper: \"4\" is not allowed for \"kernel\"; it takes an odd integer, so that a window has a centre");
  EXPECT_EQ(refusal("restkv:alpha=1.5"),
            "policy restkv@paper: \"1.5\" is not allowed for \"alpha\"; it takes a number from 0 to 1");
  EXPECT_EQ(refusal("snapkv:pooling=median"),
            "policy snapkv@paper: \"median\" is not allowed for \"pooling\"; it takes avg, max or none");
  EXPECT_NE(refusal("restkv:window=33").find("even window"), std::string::npos);
  EXPECT_NE(refusal("snapkv:window"), "");
  EXPECT_NE(refusal("snapkv:window=8,window=9"), "");
  EXPECT_EQ(refusal("restkv@released:window=32,kernel=5,alpha=0.3,scale=2000"), "");
}

TEST(PolicyString, MissingQueriesAreNamed) {
  Shape shape = shape_of(14);
  shape.layers = 1;
  auto contents = reference::random_contents(shape);
  contents.query_positions.erase(contents.query_positions.begin(), contents.query_positions.begin() + shape.prompt - 10);
  auto& query = contents.tensors.at({0, LayerDataset::query});
  query = Tensor<float, 3>({shape.query_heads, 10 + shape.steps, shape.head_dim}, 0.5F);
  try {
    evict(contents, "snapkv", 40);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("/queries/positions"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("--queries"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace kvreplay
