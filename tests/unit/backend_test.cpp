// Does every operation of the backend compute what its definition says? Checked against float64 loops.
#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <numeric>

#include "core/backend/backend.h"
#include "core/policy/layer_workspace.h"
#include "tests/unit/replay_reference.h"

namespace kvreplay {
namespace {

using reference::Layer;
using reference::Shape;

struct Case {
  const char* name;
  Shape shape;
};

std::vector<Case> cases() {
  Shape grouped, multi_query, sharp, window, capped, wide;
  multi_query.query_heads = 3;
  multi_query.kv_heads = 1;
  multi_query.head_dim = 5;
  multi_query.hidden = 4;  // fewer hidden units than the head has dimensions: W_h itself is the factor
  sharp.sharpness = 9;
  sharp.seed = 3;
  window.sliding_window = 21;
  window.prompt = 70;
  capped.softcap = 3;
  wide.prompt = 600;
  wide.head_dim = 64;
  wide.hidden = 96;
  wide.seed = 7;
  return {{"grouped", grouped}, {"multi_query", multi_query}, {"sharp", sharp},
          {"window", window},   {"capped", capped},           {"wide", wide}};
}

class BackendTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    contents_ = reference::random_contents(GetParam().shape);
    trace_ = make_memory_trace(contents_);
    backend_ = make_cpu_backend();
    loaded_ = backend_->load(*trace_, 0);
  }
  MemoryTraceContents contents_;
  std::unique_ptr<Trace> trace_;
  std::unique_ptr<Backend> backend_;
  std::shared_ptr<LoadedLayer> loaded_;
};

INSTANTIATE_TEST_SUITE_P(Shapes, BackendTest, testing::ValuesIn(cases()), [](const auto& test) { return test.param.name; });

// Float32 logits of magnitude up to about 30 are off by some 1e-6, and so is, relatively, every exponential.
constexpr double attention_tolerance = 2e-5;

TEST_P(BackendTest, WindowAttentionIsSoftmaxOverWhatEachQuerySees) {
  const int window = 6, prompt = GetParam().shape.prompt, first = static_cast<int>(loaded_->first_candidate);
  const AttentionRows rows = backend_->window_attention(*loaded_, window, true);
  const auto weight = backend_->download(rows.weight), output = backend_->download(rows.output);
  const std::int64_t n = loaded_->candidates();
  const Layer layer{contents_};
  for (int h = 0; h < GetParam().shape.query_heads; ++h)
    for (int w = 0; w < window; ++w) {
      const int t = prompt - window + w;
      const auto a = layer.attention(h, t, layer.visible(t));
      for (std::int64_t c = 0; c < n; ++c)
        EXPECT_NEAR(weight[static_cast<std::size_t>((h * window + w) * n + c)], a[static_cast<std::size_t>(first + c)],
                    attention_tolerance);
      const auto o = layer.output(h, a);
      for (std::size_t i = 0; i < o.size(); ++i)
        EXPECT_NEAR(output[static_cast<std::size_t>(h * window + w) * o.size() + i], o[i], 5 * attention_tolerance);
    }
}

TEST_P(BackendTest, ColumnSumsAreCausalOrSeeAheadAsAskedFor) {
  const int prompt = GetParam().shape.prompt, window = 6, first = static_cast<int>(loaded_->first_candidate);
  const Layer layer{contents_};
  for (const ColumnMask mask : {ColumnMask::causal, ColumnMask::full_before_window}) {
    const auto sums = backend_->download(backend_->column_sums(*loaded_, mask, window));
    for (int h = 0; h < GetParam().shape.query_heads; ++h) {
      std::vector<double> want(contents_.token_ids.size(), 0.0);
      for (int t = 0; t < prompt; ++t) {
        std::set<int> visible = layer.visible(t);
        if (mask == ColumnMask::full_before_window && t < prompt - window)
          for (int j = t + 1; j < prompt; ++j) visible.insert(j);
        const auto a = layer.attention(h, t, visible);
        for (std::size_t j = 0; j < a.size(); ++j) want[j] += a[j];
      }
      for (std::int64_t c = 0; c < loaded_->candidates(); ++c)
        EXPECT_NEAR(sums[static_cast<std::size_t>(h * loaded_->candidates() + c)], want[static_cast<std::size_t>(first + c)],
                    attention_tolerance * (1 + want[static_cast<std::size_t>(first + c)]));
    }
  }
}

// The identity behind ReST-KV, for every token, query and head: the closed form equals the output of an explicit softmax
// without the token, in value space and behind W_o.
TEST_P(BackendTest, RemovalErrorEqualsLeavingTheTokenOut) {
  const int window = 4, prompt = GetParam().shape.prompt, first = static_cast<int>(loaded_->first_candidate);
  const AttentionRows rows = backend_->window_attention(*loaded_, window, true);
  const Layer layer{contents_};
  for (const bool project : {false, true}) {
    ReconstructionForm form;
    form.project = project;
    const auto error = backend_->download(backend_->removal_error_rows(*loaded_, rows, form));
    for (int h = 0; h < GetParam().shape.query_heads; ++h)
      for (int w = 0; w < window; ++w) {
        const int t = prompt - window + w;
        const auto o = layer.output(h, layer.attention(h, t, layer.visible(t)));
        const double scale = reference::norm(project ? layer.projected(h, o) : o);
        for (int j = first; j <= t; j += GetParam().shape.prompt > 100 ? 37 : 1) {
          auto rest = layer.visible(t);
          rest.erase(j);
          auto without = reference::difference(layer.output(h, layer.attention(h, t, rest)), o);
          if (project) without = layer.projected(h, without);
          const double want = reference::norm(without);
          const double got = error[static_cast<std::size_t>((h * window + w) * loaded_->candidates() + j - first)];
          EXPECT_NEAR(got, want, 1e-4 * (want + 1e-3 * scale))
              << "head " << h << " query " << t << " token " << j << " project " << project;
        }
      }
  }
}

TEST_P(BackendTest, GramFormEqualsProjectionForm) {
  MemoryTraceContents gram = contents_;
  const auto& projection = contents_.tensors.at({0, LayerDataset::output_projection});
  const int heads = GetParam().shape.query_heads, d = GetParam().shape.head_dim;
  Tensor<float, 3> grams({heads, d, d});
  for (int h = 0; h < heads; ++h)
    for (int i = 0; i < d; ++i)
      for (int j = 0; j < d; ++j) {
        double total = 0;
        for (std::int64_t c = 0; c < projection.dim(1); ++c)
          total += static_cast<double>(projection(0, c, h * d + i)) * projection(0, c, h * d + j);
        grams(h, i, j) = static_cast<float>(total);
      }
  gram.tensors.erase({0, LayerDataset::output_projection});
  gram.tensors[{0, LayerDataset::output_gram}] = std::move(grams);
  const auto trace = make_memory_trace(gram);
  const auto loaded = backend_->load(*trace, 0);
  const auto rows = backend_->window_attention(*loaded_, 4, true);
  const auto want = backend_->download(backend_->removal_error_rows(*loaded_, rows, {}));
  const auto got = backend_->download(backend_->removal_error_rows(*loaded, rows, {}));
  const double largest = *std::max_element(want.begin(), want.end());
  // A singular Gram (C < d) is rounded to float32 before its square root is taken: an error of sqrt(2^-24) remains.
  const double tolerance = GetParam().shape.hidden < d ? 1e-3 : 1e-5;
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], tolerance * largest);
}

// ---- evaluate ----------------------------------------------------------------------------------------------------------

struct Recorder final : EvaluationSink {
  struct Head {
    HeadStep step;
    std::vector<double> output, kept_output, evicted_output;
  };
  std::map<std::tuple<std::size_t, int, std::int64_t>, Head> heads;
  std::map<std::pair<std::size_t, std::int64_t>, LayerStep> layers;
  std::mutex mutex;
  void head(std::size_t run, int query_head, std::int64_t step, const HeadStep& v) override {
    const std::lock_guard lock(mutex);
    auto& cell = heads[{run, query_head, step}];
    cell = {v,
            {v.output.begin(), v.output.end()},
            {v.kept_output.begin(), v.kept_output.end()},
            {v.evicted_output.begin(), v.evicted_output.end()}};
  }
  void layer(std::size_t run, std::int64_t step, const LayerStep& v) override {
    const std::lock_guard lock(mutex);
    layers[{run, step}] = v;
  }
};

// Evictions of every kind: nothing, once, while decoding (also a token at its own step), and almost everything.
std::vector<Tensor<std::int32_t, 2>> random_evictions(const Shape& shape, const LoadedLayer& layer) {
  std::mt19937 random(shape.seed + 100);
  const int tokens = shape.prompt + shape.steps;
  std::vector<Tensor<std::int32_t, 2>> out;
  for (const int heads : {shape.query_heads, shape.kv_heads, 1})
    for (const int kind : {0, 1, 2, 3}) {
      Tensor<std::int32_t, 2> evicted({heads, tokens}, -1);
      for (int h = 0; h < heads; ++h)
        for (std::int64_t t = layer.first_candidate; t < tokens; ++t) {
          const auto dice = static_cast<int>(random() % 10);
          if (kind == 1 && t < shape.prompt && dice < 7) evicted(h, t) = 0;
          if (kind == 2 && dice < 6)
            evicted(h, t) =
                std::max<int>(t < shape.prompt ? 0 : static_cast<int>(t) - shape.prompt + 1, dice % (shape.steps + 1));
          if (kind == 3 && t < shape.prompt && t % 29 != 5) evicted(h, t) = 0;
        }
      out.push_back(std::move(evicted));
    }
  return out;
}

TEST_P(BackendTest, EvaluateFollowsTheDefinitions) {
  const Shape& shape = GetParam().shape;
  const Layer layer{contents_};
  const auto evictions = random_evictions(shape, *loaded_);
  std::vector<RunEvictions> runs;
  for (const auto& evicted : evictions) runs.push_back({evicted.view()});
  Recorder recorder;
  backend_->evaluate(*loaded_, runs, {}, recorder);

  const auto bounds = region_bounds(shape.prompt, shape.prompt + shape.steps);
  for (std::size_t r = 0; r < evictions.size(); ++r) {
    const auto& evicted_at = evictions[r];
    for (int s = 0; s < shape.steps; ++s) {
      std::vector<double> sum_full(static_cast<std::size_t>(shape.hidden)), sum_difference(sum_full);
      for (int h = 0; h < shape.query_heads; ++h) {
        const int t = shape.prompt + s;
        const auto all = layer.visible(t);
        std::set<int> kept, evicted;
        for (const int j : all) {
          const int at = evicted_at(h * evicted_at.dim(0) / shape.query_heads, j);
          (at < 0 || at >= s + 1 || j == t ? kept : evicted).insert(j);
        }
        double full_lse = 0, kept_lse = 0;
        const auto a = layer.attention(h, t, all, &full_lse), after = layer.attention(h, t, kept, &kept_lse);
        const auto o = layer.output(h, a), o_kept = layer.output(h, after);
        double mass = 0, single = 0, entropy = 0;
        std::array<double, num_regions> before_region{}, after_region{};
        for (const int j : all) {
          const double aj = a[static_cast<std::size_t>(j)];
          if (aj > 0) entropy -= aj * std::log(aj);
          const auto region =
              static_cast<std::size_t>(std::upper_bound(bounds.begin(), bounds.end(), j) - bounds.begin() - 1);
          before_region[region] += aj;
          after_region[region] += after[static_cast<std::size_t>(j)];
        }
        std::vector<double> o_evicted(o.size(), 0.0);
        for (const int j : evicted) {
          const double aj = a[static_cast<std::size_t>(j)];
          mass += aj;
          auto rest = all;
          rest.erase(j);
          if (shape.prompt < 100)
            single += reference::norm(reference::difference(layer.output(h, layer.attention(h, t, rest)), o));
          for (std::size_t i = 0; i < o.size(); ++i) o_evicted[i] += aj * layer.v(h, j, static_cast<int>(i));
        }
        for (double& x : o_evicted) x /= std::max(mass, 1e-300);
        const auto best = reference::top(a, t + 1, static_cast<int>(kept.size()));
        double overlap = 0;
        for (const int j : kept) overlap += best.count(j) != 0 ? 1.0 / static_cast<double>(kept.size()) : 0;

        const auto& got = recorder.heads.at({r, h, s});
        ASSERT_EQ(got.step.evicted, static_cast<std::int64_t>(evicted.size()));
        EXPECT_NEAR(got.step.evicted_mass, mass, attention_tolerance * (mass + 1e-6));
        EXPECT_NEAR(got.step.full_log_sum_exp, full_lse, attention_tolerance);
        EXPECT_NEAR(got.step.kept_log_sum_exp, kept_lse, attention_tolerance);
        EXPECT_NEAR(got.step.entropy, entropy, 1e-4);
        EXPECT_NEAR(got.step.oracle_overlap, overlap, 1e-9);
        if (shape.prompt < 100) {
          EXPECT_NEAR(got.step.single_removal_sum, single, 1e-4 * single + 1e-9);
        }
        for (int region = 0; region < num_regions; ++region) {
          EXPECT_NEAR(got.step.mass_before[static_cast<std::size_t>(region)],
                      before_region[static_cast<std::size_t>(region)], attention_tolerance);
          EXPECT_NEAR(got.step.mass_after[static_cast<std::size_t>(region)], after_region[static_cast<std::size_t>(region)],
                      attention_tolerance);
        }
        for (std::size_t i = 0; i < o.size(); ++i) {
          EXPECT_NEAR(got.output[i], o[i], 5 * attention_tolerance);
          EXPECT_NEAR(got.kept_output[i], o_kept[i], 5 * attention_tolerance);
          if (!evicted.empty()) {
            EXPECT_NEAR(got.evicted_output[i], o_evicted[i], 5 * attention_tolerance);
            // o' - o = (1 - m)(o' - o_E), exactly
            EXPECT_NEAR(got.kept_output[i] - got.output[i],
                        got.step.evicted_mass * (got.kept_output[i] - got.evicted_output[i]), 1e-9);
          } else {
            EXPECT_EQ(got.kept_output[i], got.output[i]);
          }
        }
        const auto projected = layer.projected(h, o), moved = layer.projected(h, reference::difference(o_kept, o));
        for (std::size_t c = 0; c < sum_full.size(); ++c) {
          sum_full[c] += projected[c];
          sum_difference[c] += moved[c];
        }
      }
      const LayerStep& step = recorder.layers.at({r, s});
      const double scale = reference::norm(sum_full);
      EXPECT_NEAR(step.output_norm, scale, 1e-4 * scale);
      EXPECT_NEAR(step.difference_norm, reference::norm(sum_difference), 1e-4 * scale);
    }
  }
}

// A run given by its kept sets is measured to the bit like the same run given by evicted_at, also beside runs of that form.
TEST_P(BackendTest, KeptSetsAreMeasuredLikeEvictedAt) {
  const Shape& shape = GetParam().shape;
  std::vector<Tensor<std::int32_t, 2>> dense;
  std::vector<KeptSets> sets;
  for (auto& evicted : random_evictions(shape, *loaded_)) {
    KeptSets kept;
    kept.offset.push_back(0);
    bool once = true;
    for (std::int64_t h = 0; h < evicted.dim(0); ++h) {
      for (std::int64_t t = 0; t < loaded_->tokens; ++t) {
        once &= evicted(h, t) < 0 || (evicted(h, t) == 0 && t < loaded_->prompt);
        if (t >= loaded_->first_candidate && t < loaded_->prompt && evicted(h, t) < 0)
          kept.position.push_back(static_cast<std::int32_t>(t));
      }
      kept.offset.push_back(static_cast<std::int64_t>(kept.position.size()));
    }
    if (!once) continue;
    const auto again = evicted_at_of(kept, loaded_->first_candidate, loaded_->prompt, loaded_->tokens);
    EXPECT_TRUE(std::equal(again.flat().begin(), again.flat().end(), evicted.flat().begin(), evicted.flat().end()));
    dense.push_back(std::move(evicted));
    sets.push_back(std::move(kept));
  }
  ASSERT_GE(sets.size(), 6U);
  std::vector<RunEvictions> runs;
  for (const auto& evicted : dense) runs.push_back({evicted.view()});
  for (const auto& kept : sets) runs.push_back({{}, nullptr, &kept});
  Recorder recorder;
  backend_->evaluate(*loaded_, runs, {}, recorder);
  const std::size_t half = sets.size();
  for (std::size_t r = 0; r < half; ++r)
    for (int s = 0; s < shape.steps; ++s) {
      EXPECT_EQ(recorder.layers.at({r, s}).evicted, recorder.layers.at({r + half, s}).evicted);
      EXPECT_EQ(recorder.layers.at({r, s}).difference_norm, recorder.layers.at({r + half, s}).difference_norm);
      for (int h = 0; h < shape.query_heads; ++h) {
        const auto &a = recorder.heads.at({r, h, s}), &b = recorder.heads.at({r + half, h, s});
        EXPECT_EQ(a.step.evicted, b.step.evicted);
        EXPECT_EQ(a.step.evicted_mass, b.step.evicted_mass);
        EXPECT_EQ(a.step.kept_log_sum_exp, b.step.kept_log_sum_exp);
        EXPECT_EQ(a.step.single_removal_sum, b.step.single_removal_sum);
        EXPECT_EQ(a.step.oracle_overlap, b.step.oracle_overlap);
        EXPECT_EQ(a.step.mass_after, b.step.mass_after);
        EXPECT_EQ(a.kept_output, b.kept_output);
      }
    }
}

// ---- selection, ties, NaN ------------------------------------------------------------------------------------------------

TEST(Selection, TiesGoToTheLowestPositionAndNanRanksFirst) {
  const auto backend = make_cpu_backend();
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const Array scores = backend->upload({2, 6}, {1, 3, 3, 0, 3, -1, 5, -0.0F, nan, 0, inf, 0});
  using Sets = std::vector<std::vector<std::int32_t>>;
  EXPECT_EQ(backend->select_top(scores, {2, 2}), (Sets{{1, 2}, {2, 4}}));
  EXPECT_EQ(backend->select_top(scores, {4, 4}), (Sets{{0, 1, 2, 4}, {0, 1, 2, 4}}));
  EXPECT_EQ(backend->select_top(scores, {0, 9}), (Sets{{}, {0, 1, 2, 3, 4, 5}}));
}

TEST(Selection, MeanOfTheTopColumnsHonoursTies) {
  const auto backend = make_cpu_backend();
  const Array rows = backend->upload({1, 2, 5}, {0, 2, 2, 2, 9, 0, 0, 0, 0, 0});
  EXPECT_EQ(backend->mean_top_column(rows, 2, Ties::lowest), (std::vector<std::vector<double>>{{2.5, 0.5}}));
  EXPECT_EQ(backend->mean_top_column(rows, 2, Ties::highest), (std::vector<std::vector<double>>{{3.5, 3.5}}));
}

TEST(Pooling, PaddingAtTheEdges) {
  const auto backend = make_cpu_backend();
  const Array scores = backend->upload({1, 5}, {10, 20, 30, 40, 50});
  EXPECT_EQ(backend->download(backend->average_pool(scores, {5}, {0}, Padding::zero)),
            (std::vector<float>{12, 20, 30, 28, 24}));
  EXPECT_EQ(backend->download(backend->average_pool(scores, {5}, {0}, Padding::replicate)),
            (std::vector<float>{16, 22, 30, 38, 44}));
  EXPECT_EQ(backend->download(backend->average_pool(scores, {1}, {1}, Padding::replicate)),
            (std::vector<float>{20, 30, 40, 50, 50}));
  EXPECT_EQ(backend->download(backend->max_pool(scores, 3)), (std::vector<float>{20, 30, 40, 50, 50}));
}

// A sink with a = 1 - 1e-5 in float32 must stay finite and rank by what its removal does, not overflow the odds.
TEST(Sink, NearlyAllAttentionOnOneTokenStaysFiniteAndExact) {
  Shape shape;
  shape.prompt = 40;
  auto contents = reference::random_contents(shape);
  auto& key = contents.tensors.at({0, LayerDataset::key});
  const auto& query = contents.tensors.at({0, LayerDataset::query});
  for (const double target : {12.0, 30.0, 95.0}) {
    // The key of token 0 along the last prompt query of head 0, so long that it takes nearly everything.
    double squared = 0;
    for (int i = 0; i < shape.head_dim; ++i) squared += query(0, shape.prompt - 1, i) * query(0, shape.prompt - 1, i);
    for (int i = 0; i < shape.head_dim; ++i)
      key(0, 0, i) = static_cast<float>(target / contents.model.attention_scale / squared) * query(0, shape.prompt - 1, i);
    const auto trace = make_memory_trace(contents);
    const auto backend = make_cpu_backend();
    const auto loaded = backend->load(*trace, 0);
    const auto rows = backend->window_attention(*loaded, 1, true);
    ReconstructionForm form;
    form.project = false;
    const auto error = backend->download(backend->removal_error_rows(*loaded, rows, form));
    const Layer layer{contents};
    const int t = shape.prompt - 1;
    const auto o = layer.output(0, layer.attention(0, t, layer.visible(t)));
    auto rest = layer.visible(t);
    rest.erase(0);
    const double want = reference::norm(reference::difference(layer.output(0, layer.attention(0, t, rest)), o));
    EXPECT_TRUE(std::isfinite(error[0]));
    if (target < 80) {
      EXPECT_NEAR(error[0], want, 1e-4 * want) << "sink logit " << target;
    }
    EXPECT_EQ(std::max_element(error.begin(), error.begin() + shape.prompt) - error.begin(), 0);
  }
}

// Logits of which the largest is so far above all others that their exponentials underflow: 1 - a is exactly 0.
TEST(Sink, OddsStayFiniteWhereEveryOtherWeightUnderflows) {
  Shape shape;
  MemoryTraceContents contents = reference::random_contents(shape);
  const int last = shape.prompt - 1, d = shape.head_dim;
  auto& key = contents.tensors.at({0, LayerDataset::key});
  auto& query = contents.tensors.at({0, LayerDataset::query});
  auto& value = contents.tensors.at({0, LayerDataset::value});
  const auto amplitude = static_cast<float>(std::sqrt(700 / (d * contents.model.attention_scale)));
  for (int i = 0; i < d; ++i) {
    for (int h = 0; h < shape.kv_heads; ++h) key(h, last, i) = amplitude;
    for (int h = 0; h < shape.query_heads; ++h) query(h, last, i) = amplitude;
    for (int h = 0; h < shape.kv_heads; ++h) value(h, last, i) *= 0.125F;
  }
  const auto trace = make_memory_trace(contents);
  const auto backend = make_cpu_backend();
  const auto loaded = backend->load(*trace, 0);
  const AttentionRows rows = backend->window_attention(*loaded, 1, true);
  EXPECT_EQ(backend->download(rows.dominant)[1], 0.0F);
  const Layer layer{contents};
  const auto n = static_cast<std::size_t>(shape.prompt);
  for (const bool prefix_output : {false, true}) {
    ReconstructionForm form;
    form.prefix_output = prefix_output;
    const auto error = backend->download(backend->removal_error_of_mean(*loaded, rows, {1.0}, form));
    for (int h = 0; h < shape.query_heads; ++h) {
      const float got = error[static_cast<std::size_t>(h) * n + static_cast<std::size_t>(last)];
      EXPECT_TRUE(std::isfinite(got));
      if (!prefix_output) continue;
      double squared = 0;  // of W_h v: nothing else has a weight
      for (int c = 0; c < shape.hidden; ++c) {
        double x = 0;
        for (int i = 0; i < d; ++i) x += layer.wo(c, h, i) * layer.v(h, last, i);
        squared += x * x;
      }
      EXPECT_NEAR(got, 1e37 * std::sqrt(squared), 1e-4 * got);
    }
  }
}

}  // namespace
}  // namespace kvreplay
