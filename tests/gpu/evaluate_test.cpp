// What kept sets do to the decode queries, field by field, for evictions of every kind and for caches with changed rows.
#include <algorithm>
#include <map>
#include <mutex>

#include "tests/gpu/comparison.h"

namespace kvreplay::gpu_test {
namespace {

struct Recorder final : EvaluationSink {
  std::map<std::tuple<std::size_t, int, std::int64_t>, HeadStep> heads;
  std::map<std::pair<std::size_t, std::int64_t>, LayerStep> layers;
  std::mutex mutex;
  int repeated = 0;
  void head(std::size_t run, int query_head, std::int64_t step, const HeadStep& values) override {
    const std::lock_guard lock(mutex);
    HeadStep kept = values;
    kept.output = kept.kept_output = kept.evicted_output = {};  // views that end with this call
    repeated += heads.emplace(std::tuple{run, query_head, step}, kept).second ? 0 : 1;
  }
  void layer(std::size_t run, std::int64_t step, const LayerStep& values) override {
    const std::lock_guard lock(mutex);
    repeated += layers.emplace(std::pair{run, step}, values).second ? 0 : 1;
  }
};

// Nothing; a random share of the prompt; also while decoding and at a token's own step; almost everything; everything but
// the newest token; a token that leaves at the last step; each with a row per query head, KV head and for all.
std::vector<Tensor<std::int32_t, 2>> evictions(const Loaded& loaded) {
  const auto& shape = loaded.test.shape;
  std::mt19937 random(shape.seed + 100);
  const int tokens = shape.prompt + shape.steps;
  std::vector<Tensor<std::int32_t, 2>> out;
  for (const int heads : {shape.query_heads, shape.kv_heads, 1})
    for (const int kind : {0, 1, 2, 3, 4, 5}) {
      Tensor<std::int32_t, 2> evicted({heads, tokens}, -1);
      for (int h = 0; h < heads; ++h)
        for (std::int64_t t = loaded.reference->first_candidate; t < tokens; ++t) {
          const auto dice = static_cast<int>(random() % 10);
          const int step = static_cast<int>(t) - shape.prompt + 1;
          if (kind == 1 && t < shape.prompt && dice < 7) evicted(h, t) = 0;
          if (kind == 2 && dice < 6) evicted(h, t) = std::max(t < shape.prompt ? 0 : step, dice % (shape.steps + 1));
          if (kind == 3 && t < shape.prompt && t % 29 != 5) evicted(h, t) = 0;
          if (kind == 4) evicted(h, t) = t < shape.prompt ? 0 : step;
          if (kind == 5 && t < shape.prompt && dice == 0) evicted(h, t) = shape.steps;
        }
      out.push_back(std::move(evicted));
    }
  return out;
}

// How far apart two backends may be in each field. `m`: evicted mass, `cut`: how many logits lie within rounding of where
// the |K| largest end.
struct Limits {
  double weight, value, logit;

  void compare(const std::string& where, const HeadStep& got, const HeadStep& want, double swappable, bool changed) const {
    EXPECT_EQ(got.recorded, want.recorded) << where;
    if (!want.recorded || !got.recorded) return;
    EXPECT_EQ(got.visible, want.visible) << where;
    EXPECT_EQ(got.evicted, want.evicted) << where;
    const double m = want.evicted_mass;
    expect_close("evaluate, evicted mass", where, got.evicted_mass, m, weight * m + 1e-12);
    // ln Σ exp of values that are off by `logit`; a float32 log-sum-exp of magnitude 32 has units of 4e-6.
    expect_close("evaluate, log-sum-exp", where, got.full_log_sum_exp, want.full_log_sum_exp, logit + 4e-6);
    expect_close("evaluate, log-sum-exp", where, got.kept_log_sum_exp, want.kept_log_sum_exp, logit + 4e-6);
    expect_close("evaluate, divergence", where, got.redistribution_kl, want.redistribution_kl,
                 2 * weight * std::abs(want.redistribution_kl) + (changed ? 2 * logit : 0) + 8e-6);
    expect_close("evaluate, entropy", where, got.entropy, want.entropy, weight * (1 + std::abs(want.entropy)) * 4);
    // Σ a v errs by the weights' share of the longest value.
    expect_close("evaluate, output norm", where, got.output_norm, want.output_norm, weight * value);
    // o' - o is m (o' - o_E): its error is a share of m, not of o. A backend that subtracts float32 outputs fails here.
    expect_close("evaluate, difference norm", where, got.difference_norm, want.difference_norm,
                 4 * weight * (changed ? 1.0 : m) * value + 1e-7 * value);
    expect_close("evaluate, displacement", where, got.displacement, want.displacement, 4 * weight * value);
    expect_close("evaluate, single removals", where, got.single_removal_sum, want.single_removal_sum,
                 4 * weight * want.single_removal_sum + 1e-6 * value * m);
    expect_close("evaluate, oracle overlap", where, got.oracle_overlap, want.oracle_overlap,
                 1e-9 + swappable / static_cast<double>(std::max<std::int64_t>(1, want.visible - want.evicted)));
    for (std::size_t r = 0; r < num_regions; ++r) {
      expect_close("evaluate, mass of regions", where, got.mass_before[r], want.mass_before[r],
                   weight * want.mass_before[r] + 1e-12);
      expect_close("evaluate, mass of regions", where, got.mass_after[r], want.mass_after[r],
                   2 * weight * want.mass_after[r] + 1e-12);
    }
  }

  // Norms over all heads: each head's error through W_o is at most a share of the whole's scale.
  void compare(const std::string& where, const LayerStep& got, const LayerStep& want, double projected_value) const {
    EXPECT_EQ(got.recorded, want.recorded) << where;
    if (!want.recorded || !got.recorded) return;
    EXPECT_EQ(got.projected, want.projected) << where;
    EXPECT_EQ(got.evicted, want.evicted) << where;
    const double slack = weight * projected_value;
    expect_close("evaluate, layer norms", where, got.output_norm, want.output_norm, slack);
    expect_close("evaluate, layer norms", where, got.kept_output_norm, want.kept_output_norm, slack);
    expect_close("evaluate, layer differences", where, got.difference_norm, want.difference_norm,
                 2e-3 * want.difference_norm + weight * projected_value);
    expect_close("evaluate, layer products", where, got.inner_product, want.inner_product,
                 slack * (want.output_norm + want.kept_output_norm) + 1e-12);
  }
};

double largest_norm(const Tensor<float, 3>& rows) {
  double longest = 0;
  for (std::int64_t h = 0; h < rows.dim(0); ++h)
    for (std::int64_t t = 0; t < rows.dim(1); ++t) {
      double squared = 0;
      for (std::int64_t i = 0; i < rows.dim(2); ++i) squared += static_cast<double>(rows(h, t, i)) * rows(h, t, i);
      longest = std::max(longest, std::sqrt(squared));
    }
  return longest;
}

Limits limits_of(const Loaded& loaded) {
  return {weight_tolerance(loaded.test), largest_norm(loaded.trace->read(0, LayerDataset::value)),
          logit_tolerance(loaded.test)};
}

// ‖W_o‖ in the Frobenius norm over √C, times the longest value and √Hq: an upper scale of a projected output.
double projected_scale(const Loaded& loaded, double value) {
  if (!loaded.trace->has(0, LayerDataset::output_projection)) return value * std::sqrt(loaded.test.shape.query_heads);
  const auto projection = loaded.trace->read(0, LayerDataset::output_projection);
  double squared = 0;
  for (const float x : projection.flat()) squared += static_cast<double>(x) * x;
  return value * std::sqrt(squared);
}

// The number of visible logits within rounding of the |K|-th largest, less one: so many may change places.
double swappable(const Tensor<float, 2>& logits, std::int64_t step, const HeadStep& want, double tolerance) {
  std::vector<float> visible;
  for (std::int64_t t = 0; t < logits.dim(1); ++t)
    if (std::isfinite(logits(step, t))) visible.push_back(logits(step, t));
  const auto kept = static_cast<std::size_t>(want.visible - want.evicted);
  if (kept == 0 || kept >= visible.size()) return 0;
  std::vector<float> sorted = visible;
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(kept) - 1, sorted.end(), std::greater<>());
  const double cut = sorted[kept - 1];
  const auto near =
      std::count_if(visible.begin(), visible.end(), [&](float z) { return std::abs(z - cut) <= 2 * tolerance; });
  return near > 1 ? static_cast<double>(near - 1) : 0;
}

void expect_same_evaluation(const Loaded& loaded, const std::vector<RunEvictions>& runs, const EvaluationRequest& request,
                            const std::string& what, std::size_t changed_from) {
  Recorder want, got;
  reference_backend().evaluate(*loaded.reference, runs, request, want);
  tested().evaluate(*loaded.tested, runs, request, got);
  EXPECT_EQ(got.repeated, 0) << what << ": a cell was given twice";
  ASSERT_EQ(got.heads.size(), want.heads.size()) << what;
  ASSERT_EQ(got.layers.size(), want.layers.size()) << what;
  const Limits limits = limits_of(loaded);
  std::vector<Tensor<float, 2>> logits;
  for (int h = 0; h < loaded.test.shape.query_heads; ++h)
    logits.push_back(reference_backend().decode_logits(*loaded.reference, h));
  for (const auto& [cell, step] : want.heads) {
    const auto& [run, head, s] = cell;
    const std::string where = loaded.test.name + ", " + what + ", run " + std::to_string(run) + ", head " +
                              std::to_string(head) + ", step " + std::to_string(s);
    const double swaps =
        request.overlap && step.recorded ? swappable(logits[static_cast<std::size_t>(head)], s, step, limits.logit) : 0;
    limits.compare(where, got.heads.at(cell), step, swaps, run >= changed_from);
  }
  const double scale = projected_scale(loaded, limits.value);
  for (const auto& [cell, step] : want.layers)
    limits.compare(
        loaded.test.name + ", " + what + ", run " + std::to_string(cell.first) + ", step " + std::to_string(cell.second),
        got.layers.at(cell), step, scale);
}

constexpr std::size_t none_changed = 1U << 20;

class Evaluate : public GpuTest, public testing::WithParamInterface<Case> {};
INSTANTIATE_TEST_SUITE_P(Shapes, Evaluate, testing::ValuesIn(every_case()), name_of);

TEST_P(Evaluate, EveryKindOfEvictionMeasuresAsTheReferenceDoes) {
  const Loaded loaded(GetParam());
  const auto evicted = evictions(loaded);
  std::vector<RunEvictions> runs;
  for (const auto& one : evicted) runs.push_back({one.view()});
  expect_same_evaluation(loaded, runs, {}, "everything asked for", none_changed);
}

// The same evictions as kept sets, those that a policy which evicts once hands over, beside runs of the other form.
TEST_P(Evaluate, KeptSetsMeasureAsTheReferenceDoes) {
  const Loaded loaded(GetParam());
  const auto evicted = evictions(loaded);
  std::vector<KeptSets> sets;
  for (const std::size_t kind : {0U, 1U, 3U})
    for (std::size_t rows = 0; rows < 3; ++rows) {
      const auto& dense = evicted[rows * (evicted.size() / 3) + kind];
      KeptSets kept;
      kept.offset.push_back(0);
      for (std::int64_t h = 0; h < dense.dim(0); ++h) {
        for (std::int64_t t = loaded.reference->first_candidate; t < loaded.reference->prompt; ++t)
          if (dense(h, t) < 0) kept.position.push_back(static_cast<std::int32_t>(t));
        kept.offset.push_back(static_cast<std::int64_t>(kept.position.size()));
      }
      sets.push_back(std::move(kept));
    }
  KeptSets nothing;  // no head holds anything of the prompt
  nothing.offset.assign(static_cast<std::size_t>(GetParam().shape.kv_heads) + 1, 0);
  sets.push_back(std::move(nothing));
  std::vector<RunEvictions> runs = {{evicted[2].view()}};
  for (const KeptSets& kept : sets) runs.push_back({{}, nullptr, &kept});
  runs.push_back({evicted[4].view()});
  expect_same_evaluation(loaded, runs, {}, "kept sets", none_changed);
}

TEST_P(Evaluate, OneThingAskedForAtATime) {
  const Loaded loaded(GetParam());
  const auto evicted = evictions(loaded);
  std::vector<RunEvictions> runs;
  for (std::size_t r = 1; r < evicted.size(); r += 5) runs.push_back({evicted[r].view()});
  const EvaluationRequest nothing{false, false, false, false, false};
  for (int which = 0; which < 6; ++which) {
    EvaluationRequest request = nothing;
    if (which == 1) request.outputs = true;
    if (which == 2) request.single_removals = true;
    if (which == 3) request.overlap = true;
    if (which == 4) request.regions = true;
    if (which == 5) request.entropy = true;
    expect_same_evaluation(loaded, runs, request, "request " + std::to_string(which), none_changed);
  }
}

TEST_P(Evaluate, NoRunIsNoWork) {
  const Loaded loaded(GetParam());
  Recorder got;
  tested().evaluate(*loaded.tested, {}, {}, got);
  EXPECT_TRUE(got.heads.empty() && got.layers.empty());
}

// Values into which others were merged and keys that were turned, some after the prompt, some while decoding, some twice.
TEST_P(Evaluate, ChangedRowsMeasureAsTheReferenceDoes) {
  const Loaded loaded(GetParam());
  const auto& shape = GetParam().shape;
  const auto evicted = evictions(loaded);
  std::vector<CacheChanges> changes;
  std::vector<RunEvictions> runs = {{evicted[1].view()}};
  const std::size_t kinds = evicted.size() / 3;
  for (const std::size_t rows : {std::size_t{0}, std::size_t{1}}) {  // by query head, by KV head
    CacheChanges change;
    change.heads = rows == 0 ? shape.query_heads : shape.kv_heads;
    change.dim = shape.head_dim;
    std::mt19937 random(41);
    for (int step = 0; step < std::max(1, shape.steps); ++step)
      for (int k = 0; k < 9; ++k) {
        const auto head = static_cast<std::int32_t>(random() % static_cast<unsigned>(change.heads));
        const auto position = static_cast<std::int32_t>(random() % static_cast<unsigned>(shape.prompt));
        auto key = random_values(shape.head_dim, random()), value = random_values(shape.head_dim, random());
        for (float& x : key) x *= static_cast<float>(shape.sharpness);
        CacheChanges::Row row{step, head, position, -1, -1};
        if (k % 3 != 0) row.value = change.store(std::span<const float>(value));
        if (k % 3 != 1) row.key = change.store(std::span<const float>(key));
        change.rows.push_back(row);
      }
    changes.push_back(std::move(change));
  }
  for (std::size_t rows = 0; rows < 2; ++rows)
    for (const std::size_t kind : {0U, 1U, 2U}) runs.push_back({evicted[rows * kinds + kind].view(), &changes[rows]});
  expect_same_evaluation(loaded, runs, {}, "changed rows", 1);
}

// Many runs at once, as a sweep has them: more than fit into one launch of anything.
TEST_F(GpuTest, AThousandRunsMeasureAsTheReferenceDoes) {
  Case test = every_case().front();
  test.shape.prompt = 200;
  test.shape.steps = 2;
  const Loaded loaded(test);
  std::mt19937 random(43);
  std::vector<Tensor<std::int32_t, 2>> evicted;
  for (int r = 0; r < 1000; ++r) {
    Tensor<std::int32_t, 2> one({test.shape.kv_heads, test.shape.prompt + test.shape.steps}, -1);
    const unsigned share = 1 + random() % 10;
    for (std::int64_t h = 0; h < one.dim(0); ++h)
      for (int t = 0; t < test.shape.prompt; ++t)
        if (random() % 10 < share) one(h, t) = 0;
    evicted.push_back(std::move(one));
  }
  std::vector<RunEvictions> runs;
  for (const auto& one : evicted) runs.push_back({one.view()});
  expect_same_evaluation(loaded, runs, {}, "a thousand runs", none_changed);
}

}  // namespace
}  // namespace kvreplay::gpu_test
