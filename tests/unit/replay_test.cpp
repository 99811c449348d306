// Does a whole replay account for what it did: budgets, bytes, hashes, summaries, notes?
#include "core/replay/replay.h"

#include <gtest/gtest.h>

#include "core/base/sha256.h"
#include "tests/unit/replay_runs.h"

namespace kvreplay {
namespace {

using reference::Shape;
using namespace replay_runs;

TEST(Replay, NumbersRunsByPolicyThenBudget) {
  const Folder folder;
  const auto outcome = run(folder, reference::random_contents(two_layers()), {"snapkv", "tova"}, {"40", "60"});
  ASSERT_EQ(outcome.results->num_runs(), 4);
  const std::vector<std::pair<std::string, std::int64_t>> want = {
      {"snapkv", 40}, {"snapkv", 60}, {"tova", 40}, {"tova", 60}};
  for (int r = 0; r < 4; ++r) {
    EXPECT_EQ(outcome.results->info(r).preset, want[static_cast<std::size_t>(r)].first);
    EXPECT_EQ(outcome.results->info(r).budget, want[static_cast<std::size_t>(r)].second);
  }
}

// Each KV head keeps 40 of 80 tokens: 2 layers × 2 heads × 40 × 2 · 8 · 4 bytes. Per query head the same budget costs
// twice that, and one set for the layer is stored for every KV head.
TEST(Replay, BytesAreWhatARealCacheHolds) {
  const Folder folder;
  const auto outcome = run(folder, reference::random_contents(two_layers()),
                           {"snapkv", "snapkv:granularity=query_head", "streaming_llm", "h2o"}, {"40"});
  constexpr std::int64_t token = 2 * 8 * 4;
  EXPECT_EQ(outcome.runs[0].cache_bytes, 2 * 2 * 40 * token);
  EXPECT_EQ(outcome.runs[0].full_cache_bytes, 2 * 2 * 80 * token);
  EXPECT_EQ(outcome.runs[0].peak_cache_bytes, 2 * 2 * 45 * token);  // the five generated tokens are appended
  EXPECT_EQ(outcome.runs[1].cache_bytes, 2 * 4 * 40 * token);
  EXPECT_EQ(outcome.runs[1].full_cache_bytes, 2 * 2 * 80 * token);
  EXPECT_EQ(outcome.runs[2].cache_bytes, 2 * 2 * 40 * token);
  EXPECT_EQ(outcome.runs[2].peak_cache_bytes, 2 * 2 * 41 * token);  // evicts after each step: one more while it runs
  EXPECT_EQ(outcome.runs[3].peak_cache_bytes, 2 * 2 * 41 * token);
}

TEST(Replay, BudgetsInTokensShareAndBytesAgree) {
  const Folder folder;
  const auto outcome =
      run(folder, reference::random_contents(two_layers()), {"snapkv"}, {"40", "50%", "10240B", "10KiB", "10240.5B"});
  for (const RunInfo& info : outcome.runs) {
    EXPECT_EQ(info.budget, 40);
    EXPECT_EQ(info.kept_sha256, outcome.runs[0].kept_sha256);
  }
  EXPECT_THROW(Budget::parse("0"), Error);
  EXPECT_THROW(Budget::parse("-3"), Error);
  EXPECT_THROW(Budget::parse("12 apples"), Error);
  EXPECT_THROW(Budget::parse("1.5"), Error);
  EXPECT_THROW(Budget::parse(""), Error);
  EXPECT_THROW(Budget::parse("1e999"), Error);
  EXPECT_THROW(run(folder, reference::random_contents(two_layers()), {"snapkv"}, {"255B"}), Error);
  EXPECT_THROW(run(folder, reference::random_contents(two_layers()), {"snapkv"}, {"31"}), Error) << "below the window";
}

TEST(Replay, HashProvesWhatWasEvicted) {
  const Folder folder;
  const auto outcome = run(folder, reference::random_contents(two_layers()), {"restkv", "random"}, {"40"});
  for (int r = 0; r < 2; ++r) {
    const auto evicted_at = outcome.results->evicted_at(r);
    Sha256 hash;
    hash.update(evicted_at.data(), static_cast<std::size_t>(evicted_at.size()) * 4);
    EXPECT_EQ(outcome.results->info(r).kept_sha256, hash.hex());
  }
}

TEST(Replay, SaysWhenNothingWasEvicted) {
  const Folder folder;
  const auto outcome = run(folder, reference::random_contents(two_layers()), {"snapkv", "full"}, {"500"});
  ASSERT_EQ(outcome.runs[0].notes.size(), 1U);
  EXPECT_NE(outcome.runs[0].notes[0].find("nothing was evicted"), std::string::npos);
  EXPECT_EQ(outcome.warnings.size(), 1U) << "the full cache evicts nothing by definition";
  EXPECT_EQ(outcome.runs[0].kept_sha256 == outcome.runs[1].kept_sha256, true);
  EXPECT_EQ(outcome.runs[0].summary.at("output_error"), 0);
  EXPECT_EQ(outcome.runs[0].summary.at("output_cosine"), 1);
  EXPECT_EQ(outcome.runs[0].summary.at("evicted_mass"), 0);
}

TEST(Replay, WithoutGeneratedTokensThereAreEvictionsButNoMeans) {
  Shape shape = two_layers();
  shape.steps = 0;
  const Folder folder;
  const auto outcome = run(folder, reference::random_contents(shape), {"snapkv", "h2o"}, {"40"});
  EXPECT_EQ(outcome.runs[0].summary.at("evicted_tokens"), 2 * 2 * 40);
  EXPECT_EQ(outcome.runs[0].summary.count("output_error"), 0U);
  EXPECT_EQ(outcome.runs[0].peak_cache_bytes, outcome.runs[0].cache_bytes);
  EXPECT_EQ(outcome.results->metric(0, "evicted_mass").shape, (std::vector<std::int64_t>{2, 4, 0}));
  EXPECT_THROW(run(folder, reference::random_contents(shape), {"oracle_attention"}, {"40"}), Error);
}

TEST(Replay, APromptShorterThanTheWindowIsNoError) {
  Shape shape = two_layers();
  shape.prompt = 20;
  const Folder folder;
  const auto outcome =
      run(folder, reference::random_contents(shape), {"restkv", "snapkv", "random", "h2o@released"}, {"24"});
  for (const RunInfo& info : outcome.runs) EXPECT_EQ(info.summary.at("evicted_tokens"), 0);
}

TEST(Replay, RunsDoNotInfluenceEachOther) {
  const Folder folder;
  const auto contents = reference::random_contents(two_layers());
  const auto together = run(folder, contents, {"restkv", "h2o", "snapkv", "tova"}, {"36", "50"});
  const auto backwards = run(folder, contents, {"tova", "snapkv", "h2o", "restkv"}, {"50", "36"});
  for (std::size_t r = 0; r < together.runs.size(); ++r) {
    const RunInfo& a = together.runs[r];
    const RunInfo& b = backwards.runs[together.runs.size() - 1 - r];
    EXPECT_EQ(a.policy, b.policy);
    EXPECT_EQ(a.kept_sha256, b.kept_sha256);
    EXPECT_EQ(a.summary, b.summary);
  }
}

TEST(Replay, MetricsHaveTheirShapesAndMarkedSpansCount) {
  const Folder folder;
  auto contents = reference::random_contents(two_layers());
  contents.spans = {{10, 14, "needle"}, {60, 70, "question"}};
  const auto outcome = run(folder, contents, {"streaming_llm"}, {"40"});
  const auto shape = [&](const char* name) { return outcome.results->metric(0, name).shape; };
  EXPECT_EQ(shape("output_error"), (std::vector<std::int64_t>{2, 5}));
  EXPECT_EQ(shape("evicted_mass"), (std::vector<std::int64_t>{2, 4, 5}));
  EXPECT_EQ(shape("region_mass_after"), (std::vector<std::int64_t>{2, 4, 5, 6}));
  EXPECT_EQ(shape("evidence_recall"), (std::vector<std::int64_t>{2, 4}));
  EXPECT_EQ(outcome.runs[0].summary.at("evidence_recall"), 0) << "positions 10 to 13 leave the recent part";
  EXPECT_EQ(outcome.runs[0].summary.at("not_finite"), 0);
  const auto names = outcome.results->metric_names(0);
  EXPECT_EQ(std::count(names.begin(), names.end(), "output_error_unprojected"), 0);
}

// The two means are over the first steps and over the others, and the whole mean is their weighted mean.
TEST(Replay, MeansOfTheFirstStepsAndOfTheRestAreApart) {
  const Folder folder;
  Shape shape = two_layers();
  shape.steps = 7;
  ReplayRequest settings;
  settings.early_steps = 3;
  const auto outcome = run(folder, reference::random_contents(shape), {"snapkv"}, {"40"}, settings);
  const auto& summary = outcome.runs[0].summary;
  for (const char* name : {"output_error", "evicted_mass", "region_mass_after"}) {
    const MetricValues metric = outcome.results->metric(0, name);
    const std::size_t width = metric.axes.back() == "region" ? num_regions : 1;
    double early = 0, late = 0;
    for (std::size_t i = 0; i < metric.values.size(); ++i)
      (i / width % 7 < 3 ? early : late) += metric.values[i] * 7.0 / static_cast<double>(metric.values.size());
    EXPECT_NEAR(summary.at(std::string(name) + ".early"), early / 3, 1e-6) << name;  // of float32 values
    EXPECT_NEAR(summary.at(std::string(name) + ".late"), late / 4, 1e-6) << name;
    EXPECT_NEAR(summary.at(name), (early + late) / 7, 1e-6) << name;
  }
  EXPECT_NE(summary.at("output_error.early"), summary.at("output_error.late"));
  EXPECT_TRUE(summary.contains("region_mass_after.sinks.early"));
  EXPECT_EQ(outcome.results->info(0).early_steps, 3);

  settings.early_steps = 7;
  const auto all_early = run(folder, reference::random_contents(shape), {"snapkv"}, {"40"}, settings);
  EXPECT_EQ(all_early.runs[0].summary.count("output_error.late"), 0U) << "no step is late";
}

TEST(Replay, WithoutAnOutputProjectionTheHeadsAreConcatenated) {
  const Folder folder;
  auto contents = reference::random_contents(two_layers());
  contents.tensors.erase({0, LayerDataset::output_projection});
  contents.tensors.erase({1, LayerDataset::output_projection});
  const auto outcome = run(folder, contents, {"snapkv", "restkv:project=false"}, {"40"});
  EXPECT_GT(outcome.runs[0].summary.at("output_error_unprojected"), 0);
  EXPECT_EQ(outcome.runs[0].summary.count("output_error"), 0U);
  EXPECT_EQ(outcome.runs[0].summary.count("output_cosine"), 0U);
  try {
    run(folder, contents, {"restkv"}, {"40"});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("output_"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace kvreplay
