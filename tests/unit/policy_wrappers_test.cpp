// What is put around policies: schedules, merging, positions, engine constraints, half precision. Each against a plain
// computation that shares nothing with it, then every wrapper around every policy against the rules that hold for any.
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/policy/wrappers/wrapper.h"
#include "tests/unit/policy_reference.h"

namespace kvreplay {
namespace {

using reference::complete;
using reference::evict;
using reference::Layer;
using reference::Rows;
using reference::rows_of;
using reference::Shape;
using reference::shape_of;
using reference::simulate;

LayerEvictions evictions_of(const MemoryTraceContents& contents, const std::string& policy, std::int64_t budget) {
  const auto trace = make_memory_trace(contents);
  const auto backend = make_cpu_backend();
  LayerWorkspace workspace(*trace, 0, *backend);
  return make_policy(parse_policy(policy))->evict(workspace, budget);
}

std::vector<double> row_of(const CacheChanges& changes, std::int64_t row) {
  const float* first = changes.storage.data() + row * changes.dim;
  return {first, first + changes.dim};
}

// ---- schedule ----------------------------------------------------------------------------------------------------------

// The newest query's attention over what the head then holds, mean over the group, the newest token kept.
TEST(Schedule, ScoresWhatTheCacheHolds) {
  const Shape shape = shape_of(31);
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  for (const int target : {0, 21}) {
    const int budget = 30, every = 4;
    Rows want;
    for (int g = 0; g < shape.kv_heads; ++g)
      want.push_back(simulate(shape, [&](int step, const std::set<int>& cached) {
        const int size = step == 0 || target == 0 ? budget : target;
        if (step % every != 0 || static_cast<int>(cached.size()) <= size) return cached;
        const int newest = *cached.rbegin();
        std::vector<double> score(contents.token_ids.size(), -1.0);
        for (const int t : cached) score[static_cast<std::size_t>(t)] = t == newest ? 1e9 : 0;
        for (int h = g * layer.group(); h < (g + 1) * layer.group(); ++h) {
          const auto a = layer.attention(h, newest, cached);
          for (const int t : cached) score[static_cast<std::size_t>(t)] += a[static_cast<std::size_t>(t)];
        }
        return reference::top(score, static_cast<int>(score.size()), size);
      }));
    EXPECT_EQ(evict(contents, "snapkv:window=1,pooling=none,schedule=every:4,target=" + std::to_string(target), budget),
              want);
  }
}

TEST(Schedule, KeepsEveryHeadAtItsOwnBudget) {
  const Shape shape = shape_of(32);
  const auto contents = reference::random_contents(shape);
  const Rows once = evict(contents, "adakv:window=4", 20), again = evict(contents, "adakv:window=4,schedule=every:3", 20);
  std::set<std::int64_t> sizes;
  for (std::size_t h = 0; h < once.size(); ++h) {
    const auto kept = [&](const std::vector<std::int32_t>& row, int step) {
      return std::count_if(row.begin(), row.begin() + shape.prompt + step, [&](int at) { return at < 0 || at > step; });
    };
    sizes.insert(kept(once[h], 0));
    for (const int step : {0, 3, 6, 9})
      EXPECT_EQ(kept(again[h], step), kept(once[h], 0)) << "head " << h << " step " << step;
  }
  EXPECT_GT(sizes.size(), 1U) << "the heads of this trace should differ";
}

// Every head is back at its target after every eviction, however unevenly a sliding window or an allocation leaves them.
TEST(Schedule, HeadsThatBecomeUnevenAreCutEachByItself) {
  const auto held = [](const std::vector<std::int32_t>& row, int begin, int end, int step) {
    return std::count_if(row.begin() + begin, row.begin() + end, [&](int at) { return at < 0 || at > step; });
  };
  Shape shape = shape_of(44);
  shape.steps = 24;
  shape.sliding_window = 40;
  for (const auto& row : evict(reference::random_contents(shape), "snapkv:window=4,pooling=none,schedule=every:4", 20))
    for (int step = 4; step <= shape.steps; step += 4)
      EXPECT_LE(held(row, shape.prompt + step - 40, shape.prompt + step, step), 20) << "step " << step;

  shape = shape_of(45);
  shape.steps = 24;
  const Rows rows = evict(reference::random_contents(shape), "adakv:window=4,schedule=every:4", shape.prompt);
  for (int step = 4; step <= shape.steps; step += 4) {
    std::int64_t together = 0;
    for (const auto& row : rows) together += held(row, 0, shape.prompt + step, step);
    EXPECT_EQ(together, shape.kv_heads * shape.prompt) << "step " << step;
  }
}

TEST(Schedule, NeverAsksForLessThanThePolicyProtects) {
  Shape shape = shape_of(46);
  shape.prompt = 20;
  shape.steps = 24;
  for (const auto& row : evict(reference::random_contents(shape), "snapkv:window=32,schedule=every:8", 20))
    EXPECT_EQ(std::count(row.begin(), row.end(), -1), 32);  // of 44 the window of 32 after steps 16 and 24
}

TEST(Schedule, RefusesWhatItCannotBePutAround) {
  for (const char* policy :
       {"h2o:schedule=every:2", "tova:schedule=every:2", "oracle_attention:schedule=every:2", "snapkv:schedule=often",
        "snapkv:schedule=every:0", "snapkv:window=8,schedule=every:2,target=4"})
    EXPECT_THROW(parse_policy(policy), Error) << policy;
}

// ---- merging -----------------------------------------------------------------------------------------------------------

TEST(Merge, FoldsEvictedRowsIntoTheMostAlikeKey) {
  const Shape shape = shape_of(33);
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  const int h = 2, kv_head = h / layer.group();
  for (const std::string form : {"pivot", "weighted"}) {
    const auto result = evictions_of(contents, "snapkv:window=4,merge=" + form, 12);
    std::vector<int> kept, evicted;
    for (int t = 0; t < shape.prompt; ++t) (result.evicted_at(kv_head, t) == 0 ? evicted : kept).push_back(t);
    const auto cosine = [&](int a, int b) {
      double ab = 0, aa = 0, bb = 0;
      for (int i = 0; i < shape.head_dim; ++i) {
        ab += layer.k(h, a, i) * layer.k(h, b, i);
        aa += layer.k(h, a, i) * layer.k(h, a, i);
        bb += layer.k(h, b, i) * layer.k(h, b, i);
      }
      return ab / std::sqrt(aa * bb);
    };
    std::map<int, std::vector<int>> joins;
    for (const int j : evicted)
      joins[*std::max_element(kept.begin(), kept.end(), [&](int a, int b) { return cosine(j, a) < cosine(j, b); })]
          .push_back(j);
    std::size_t changed = 0;
    for (const auto& row : result.changes.rows) {
      if (row.head != kv_head) continue;
      ++changed;
      const auto key = row_of(result.changes, row.key), value = row_of(result.changes, row.value);
      for (int i = 0; i < shape.head_dim; ++i) {
        double k = layer.k(h, row.position, i), v = layer.v(h, row.position, i), weight = 1;
        const double own_key = k, own_value = v;
        for (const int j : joins.at(row.position)) {
          const double w = form == "pivot" ? 1 : (cosine(j, row.position) + 1) / 2;
          k += form == "pivot" ? (layer.k(h, j, i) + own_key) / 2 : w * layer.k(h, j, i);
          v += form == "pivot" ? (layer.v(h, j, i) + own_value) / 2 : w * layer.v(h, j, i);
          weight += w;
        }
        EXPECT_NEAR(key[static_cast<std::size_t>(i)], k / weight, 1e-5);  // float32 storage and cosines
        EXPECT_NEAR(value[static_cast<std::size_t>(i)], v / weight, 1e-5);
      }
    }
    EXPECT_EQ(changed, joins.size());
  }
}

// The code released with ReST-KV: K list [window, selected by score], V list [selected by score, window], and what is merged
// are the positions that no head selected, the window among them.
TEST(Merge, ReleasedPivotMisalignsKeysAndValues) {
  const Shape shape = shape_of(34);
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  const int window = 4, budget = 9, h = 1, prefix = shape.prompt - window;
  const std::string policy = "snapkv@released:window=4,kernel=1";
  const auto trace = make_memory_trace(contents);
  const auto backend = make_cpu_backend();
  LayerWorkspace workspace(*trace, 0, *backend, true);
  const auto plain = make_policy(parse_policy(policy))->evict(workspace, budget);
  const auto merged = make_policy(parse_policy(policy + ",merge=pivot"))->evict(workspace, budget);
  EXPECT_EQ(rows_of(plain.evicted_at), rows_of(merged.evicted_at));
  std::vector<int> selected, dropped;
  for (int t = 0; t < prefix; ++t)
    if (plain.evicted_at(h, t) < 0) selected.push_back(t);
  std::sort(selected.begin(), selected.end(), [&](int a, int b) { return plain.scores(h, a) > plain.scores(h, b); });
  for (int t = 0; t < shape.prompt; ++t) {
    bool any = false;
    for (int other = 0; other < shape.query_heads && t < prefix; ++other) any |= plain.evicted_at(other, t) < 0;
    if (!any) dropped.push_back(t);
  }
  std::vector<int> keys, values = selected;
  for (int t = prefix; t < shape.prompt; ++t) keys.push_back(t), values.push_back(t);
  keys.insert(keys.end(), selected.begin(), selected.end());
  const auto nearest = [&](int j) {
    std::pair<double, std::size_t> best{-2, 0};
    for (std::size_t slot = 0; slot < keys.size(); ++slot) {
      double ab = 0, bb = 0;
      for (int i = 0; i < shape.head_dim; ++i) {
        ab += layer.k(h, j, i) * layer.k(h, keys[slot], i);
        bb += layer.k(h, keys[slot], i) * layer.k(h, keys[slot], i);
      }
      if (ab / std::sqrt(bb) > best.first) best = {ab / std::sqrt(bb), slot};
      if (slot == 0) best = {ab / std::sqrt(bb), 0};
    }
    return best.second;
  };
  std::vector<std::vector<int>> joins(keys.size());
  for (const int j : dropped) joins[nearest(j)].push_back(j);
  std::size_t slot = 0;
  for (const auto& row : merged.changes.rows) {
    if (row.head != h) continue;
    ASSERT_EQ(row.position, keys[slot]);
    for (int i = 0; i < shape.head_dim; ++i) {
      double v = layer.v(h, values[slot], i);
      for (const int j : joins[slot]) v += (layer.v(h, j, i) + layer.v(h, values[slot], i)) / 2;
      EXPECT_NEAR(row_of(merged.changes, row.value)[static_cast<std::size_t>(i)],
                  v / (1.0 + static_cast<double>(joins[slot].size())), 1e-5);
    }
    ++slot;
  }
  EXPECT_EQ(slot, keys.size());
}

// ---- attention over changed rows ---------------------------------------------------------------------------------------

struct HeadOutputs final : EvaluationSink {
  std::map<std::pair<int, std::int64_t>, std::vector<double>> output;
  std::map<std::pair<int, std::int64_t>, double> divergence;
  std::mutex mutex;
  void head(std::size_t, int query_head, std::int64_t step, const HeadStep& values) override {
    const std::lock_guard lock(mutex);
    output[{query_head, step}].assign(values.kept_output.begin(), values.kept_output.end());
    divergence[{query_head, step}] = values.redistribution_kl;
  }
  void layer(std::size_t, std::int64_t, const LayerStep&) override {}
};

// Rows that change at two steps: every later query attends to what then holds.
TEST(ChangedRows, AttentionFollowsThem) {
  Shape shape = shape_of(35);
  shape.softcap = 5;
  const auto contents = reference::random_contents(shape);
  const auto trace = make_memory_trace(contents);
  const auto backend = make_cpu_backend();
  LayerWorkspace workspace(*trace, 0, *backend);
  const auto result = make_policy(parse_policy("streaming_llm:merge=weighted"))->evict(workspace, 20);
  ASSERT_GT(result.changes.rows.back().step, 1);
  HeadOutputs measured;
  backend->evaluate(workspace.loaded(), {{result.evicted_at.view(), &result.changes}}, {true, false, false, false, false},
                    measured);
  auto changed = contents;  // the recorded rows replaced as the steps go by
  const Layer before{contents}, now{changed};
  for (int s = 0; s < shape.steps; ++s) {
    for (const auto& row : result.changes.rows)
      if (row.step == s)
        for (int i = 0; i < shape.head_dim; ++i) {
          changed.tensors.at({0, LayerDataset::key})(row.head, row.position, i) =
              static_cast<float>(row_of(result.changes, row.key)[static_cast<std::size_t>(i)]);
          changed.tensors.at({0, LayerDataset::value})(row.head, row.position, i) =
              static_cast<float>(row_of(result.changes, row.value)[static_cast<std::size_t>(i)]);
        }
    std::set<int> kept;
    for (int t = 0; t <= shape.prompt + s; ++t)
      if (result.evicted_at(0, t) < 0 || result.evicted_at(0, t) >= s + 1) kept.insert(t);
    for (int h = 0; h < shape.query_heads; ++h) {
      const auto a = now.attention(h, shape.prompt + s, kept),
                 full = before.attention(h, shape.prompt + s, before.visible(shape.prompt + s));
      const auto want = now.output(h, a);
      for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR((measured.output[{h, s}][i]), want[i], 1e-5);
      double divergence = 0;
      for (const int t : kept)
        divergence +=
            a[static_cast<std::size_t>(t)] * std::log(a[static_cast<std::size_t>(t)] / full[static_cast<std::size_t>(t)]);
      EXPECT_NEAR((measured.divergence[{h, s}]), divergence, 1e-4);  // float32 logits
    }
  }
}

// A rotation by the slot is a rotation by the position and back by the gap: logits must be those of keys and query at slots.
TEST(Positions, CompactedKeysStandInTheirSlots) {
  Shape shape = shape_of(36);
  auto contents = reference::random_contents(shape);
  contents.model.rope_theta = 100;
  contents.model.rope_layout = "half";
  const Layer layer{contents};
  const auto turn = [&](std::vector<double> x, double position) {
    const std::size_t half = x.size() / 2;
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = position * std::pow(100.0, -static_cast<double>(i) / static_cast<double>(half)), a = x[i],
                   b = x[i + half];
      x[i] = a * std::cos(angle) - b * std::sin(angle);
      x[i + half] = b * std::cos(angle) + a * std::sin(angle);
    }
    return x;
  };
  const auto result = evictions_of(contents, "streaming_llm:positions=compacted", 12);
  std::map<int, std::vector<double>> turned;
  for (int s = 0; s < shape.steps; ++s) {
    for (const auto& row : result.changes.rows)
      if (row.step == s && row.head == 1) turned[row.position] = row_of(result.changes, row.key);
    int slot = 0, count = 0;
    const auto holds = [&](int t) { return result.evicted_at(0, t) < 0 || result.evicted_at(0, t) > s; };
    for (int t = 0; t < shape.prompt + s; ++t) count += holds(t) ? 1 : 0;
    for (int t = 0; t < shape.prompt + s; ++t) {
      if (!holds(t)) continue;
      std::vector<double> key, query;
      for (int i = 0; i < shape.head_dim; ++i)
        key.push_back(layer.k(2, t, i)), query.push_back(layer.q(2, shape.prompt + s, i));
      const auto slot_key = turn(turn(key, -t), slot++), slot_query = turn(turn(query, -(shape.prompt + s)), count);
      const std::vector<double>& used = turned.count(t) != 0 ? turned[t] : key;
      double want = 0, got = 0;
      for (std::size_t i = 0; i < key.size(); ++i) want += slot_query[i] * slot_key[i], got += query[i] * used[i];
      EXPECT_NEAR(got, want, 1e-4) << "token " << t << " step " << s;
    }
  }
  EXPECT_TRUE(evictions_of(contents, "streaming_llm:positions=compacted", shape.prompt + shape.steps).changes.empty());
}

// ---- engine constraints ------------------------------------------------------------------------------------------------

TEST(EngineConstraints, ABlockOfOneIsNone) {
  const auto contents = reference::random_contents(shape_of(37));
  for (const char* policy : {"snapkv:window=8", "h2o", "tova", "streaming_llm", "adakv:window=8"})
    EXPECT_EQ(evict(contents,
                    std::string(policy) + (std::string(policy).find(':') == std::string::npos ? ":" : ",") + "block=1", 24),
              evict(contents, policy, 24))
        << policy;
}

TEST(EngineConstraints, BlocksAreWholeAndWithinWhatThePolicyHolds) {
  const Shape shape = shape_of(38);
  const auto contents = reference::random_contents(shape);
  const Rows own = evict(contents, "snapkv:window=8", 40), blocks = evict(contents, "snapkv:window=8,block=16", 40);
  for (std::size_t h = 0; h < own.size(); ++h) {
    std::map<int, int> held;
    int total = 0;
    for (int t = 0; t < shape.prompt; ++t)
      if (blocks[h][static_cast<std::size_t>(t)] < 0) ++held[t / 16], ++total;
    for (const auto& [block, count] : held) EXPECT_EQ(count, std::min(16, shape.prompt - 16 * block)) << "block " << block;
    EXPECT_LE(total, 40);
    EXPECT_EQ(held.count((shape.prompt - 1) / 16), 1U) << "the block that is written to";
  }
}

TEST(EngineConstraints, OneSetTakesTheMostVotes) {
  const Shape shape = shape_of(39);
  const auto contents = reference::random_contents(shape);
  const Rows own = evict(contents, "snapkv@released:window=8", 30),
             one = evict(contents, "snapkv@released:window=8,one_set=true", 30);
  ASSERT_EQ(one.size(), 1U);
  std::vector<double> votes;
  for (int t = 0; t < shape.prompt; ++t) {
    votes.push_back(0);
    for (const auto& row : own) votes.back() += row[static_cast<std::size_t>(t)] < 0 ? 1 : 0;
  }
  EXPECT_EQ(one.front(), reference::kept_once(shape, reference::top(votes, shape.prompt, 30)));
}

TEST(EngineConstraints, AppendOnlyEvictsNothingLater) {
  const auto contents = reference::random_contents(shape_of(40));
  for (const auto& row : evict(contents, "h2o:append_only=true", 24)) {
    EXPECT_EQ(*std::max_element(row.begin(), row.end()), 0);
    EXPECT_EQ(std::count(row.begin(), row.end(), 0), shape_of(40).prompt - 24);
  }
}

// ---- half precision ----------------------------------------------------------------------------------------------------

double half(double x) {
  const float single = static_cast<float>(x);
  std::uint16_t bits = 0;
  float out = 0;
  from_float32(ElementType::float16, &single, &bits, 1);
  to_float32(ElementType::float16, &bits, &out, 1);
  return out;
}

// SnapKV's pipeline, rounded where PyTorch rounds.
TEST(HalfPrecision, RoundsAfterEveryOperation) {
  Shape shape = shape_of(41);
  shape.sharpness = 6;
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  const int window = 4, prefix = shape.prompt - window;
  const auto trace = make_memory_trace(contents);
  const auto backend = make_cpu_backend();
  LayerWorkspace workspace(*trace, 0, *backend, true);
  const auto result = make_policy(parse_policy("snapkv@released:window=4,kernel=3,score_dtype=fp16"))->evict(workspace, 20);
  int differs = 0;
  for (int h = 0; h < shape.query_heads; ++h) {
    std::vector<double> sum(static_cast<std::size_t>(prefix), 0.0);
    for (int t = prefix; t < shape.prompt; ++t) {
      std::vector<double> z;
      for (int j = 0; j <= t; ++j) {
        double product = 0;
        for (int i = 0; i < shape.head_dim; ++i) product += half(layer.q(h, t, i)) * half(layer.k(h, j, i));
        z.push_back(half(half(product) * contents.model.attention_scale));
      }
      double total = 0;
      for (const double x : z) total += std::exp(x - *std::max_element(z.begin(), z.end()));
      for (int j = 0; j < prefix; ++j)
        sum[static_cast<std::size_t>(j)] +=
            half(std::exp(z[static_cast<std::size_t>(j)] - *std::max_element(z.begin(), z.end())) / total);
    }
    for (double& x : sum) x = half(x);
    for (int j = 0; j < prefix; ++j) {
      double pooled = 0;
      for (int u = std::max(0, j - 1); u <= std::min(prefix - 1, j + 1); ++u) pooled += sum[static_cast<std::size_t>(u)];
      // One unit in the last place of float16: sums in float32 may round to the neighbour.
      EXPECT_NEAR(result.scores(h, j), half(pooled / 3), std::abs(half(pooled / 3)) / 1024 + 6e-8);
      differs += result.scores(h, j) != half(pooled / 3) ? 1 : 0;
    }
  }
  EXPECT_LT(differs, shape.query_heads * prefix / 50);
}

TEST(HalfPrecision, IsCloseToFullPrecisionForReconstruction) {
  Shape shape = shape_of(42);
  const auto contents = reference::random_contents(shape);
  for (const std::string form : {"metric=after", "metric=before", "metric=before,normalize=true", "project=false"}) {
    const auto trace = make_memory_trace(contents);
    const auto backend = make_cpu_backend();
    LayerWorkspace workspace(*trace, 0, *backend, true);
    const std::string policy = "restkv@released:window=8,pooling=none," + form;
    const auto full = make_policy(parse_policy(policy))->evict(workspace, 20);
    const auto rounded = make_policy(parse_policy(policy + ",score_dtype=fp16"))->evict(workspace, 20);
    for (int h = 0; h < shape.query_heads; ++h)
      for (int j = 0; j < shape.prompt - 8; ++j)  // a dozen roundings of 2^-11, differences of vectors among them
        EXPECT_NEAR(rounded.scores(h, j), full.scores(h, j), 0.02 * std::abs(full.scores(h, j)) + 1e-5) << form;
  }
}

// ---- every wrapper around every policy ---------------------------------------------------------------------------------

std::vector<std::string> every_policy_and_variant() {
  std::vector<std::string> names;
  for (const auto* policy : policy_registry())
    for (const auto& variant : policy->variants) names.push_back(policy->name + "@" + variant.name);
  return names;
}

class AnyPolicyWrapped : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Registry, AnyPolicyWrapped, testing::ValuesIn(every_policy_and_variant()), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '@', '_');
  return name;
});

TEST_P(AnyPolicyWrapped, KeepsTheRules) {
  Shape shape = shape_of(43);
  auto contents = reference::random_contents(shape);
  contents.model.rope_theta = 10000;
  contents.model.rope_layout = "half";
  std::string plain = complete(GetParam());
  if (const PolicySpec spec = parse_policy(plain); spec.values.has("window") && spec.values.integer("window") > 8)
    plain += (plain.find(':') == std::string::npos ? ":" : ",") + std::string("window=8");  // below what a schedule leaves
  const Rows own = evict(contents, plain, 40);
  const int everything = shape.prompt + shape.steps;
  for (const std::string key :
       {"score_dtype=fp16", "schedule=every:3", "append_only=true", "one_set=true", "block=4", "merge=pivot",
        "merge=weighted", "positions=compacted", "schedule=every:4,block=8,merge=weighted,positions=compacted"}) {
    const std::string text = plain + (plain.find(':') == std::string::npos ? ":" : ",") + key;
    PolicySpec spec;
    try {
      spec = parse_policy(text);
    } catch (const Error& refused) {
      EXPECT_NE(std::string(refused.what()).find("cannot be put around"), std::string::npos) << refused.what();
      continue;
    }
    EXPECT_EQ(parse_policy(spec.text()).text(), spec.text());
    EXPECT_NE(spec.label().find(key.substr(0, key.find(','))), std::string::npos);
    const LayerEvictions first = evictions_of(contents, text, 40), second = evictions_of(contents, text, 40);
    EXPECT_EQ(rows_of(first.evicted_at), rows_of(second.evicted_at)) << text;
    EXPECT_EQ(first.changes.storage, second.changes.storage) << text;
    EXPECT_TRUE(first.changes.empty() || make_policy(spec)->changes_rows()) << text;
    const Rows rows = rows_of(first.evicted_at);
    const bool changes_the_set = key.find("merge") != 0 && key.find("positions") != 0;
    if (!changes_the_set) {
      EXPECT_EQ(rows, own) << text << ": what is kept is the policy's";
    }
    // No wrapper holds more than the policy itself after the prompt, heads together (a block may be all there is).
    std::int64_t held = 0, allowed = 0;
    for (const auto& row : rows)
      held += std::count_if(row.begin(), row.begin() + shape.prompt, [](int at) { return at != 0; });
    for (const auto& row : own)
      allowed += std::count_if(row.begin(), row.begin() + shape.prompt, [](int at) { return at != 0; });
    if (key != "append_only=true" && key != "score_dtype=fp16") {
      EXPECT_LE(held * static_cast<std::int64_t>(own.size()), allowed * static_cast<std::int64_t>(rows.size())) << text;
    }
    if (make_policy(spec)->fixed_budget() > 0 || plain.find("ratio") != std::string::npos) continue;  // sizes of its own
    const LayerEvictions full = evictions_of(contents, text, everything);
    EXPECT_EQ(std::count(full.evicted_at.flat().begin(), full.evicted_at.flat().end(), -1), full.evicted_at.size()) << text;
    EXPECT_TRUE(full.changes.empty()) << text;
  }
}

TEST(Wrappers, RefusalsSayWhatEveryPolicyTakes) {
  try {
    parse_policy("snapkv:windw=3");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("every policy takes score_dtype, schedule"), std::string::npos) << error.what();
  }
  EXPECT_EQ(parse_policy("snapkv:merge=none").text(), parse_policy("snapkv").text());
}

}  // namespace
}  // namespace kvreplay
