// Do results files keep what a replay found?
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <numeric>

#include "core/base/error.h"
#include "core/trace/results.h"
#include "tests/unit/trace_samples.h"

namespace kvreplay {
namespace {

RunLayout layout_of(std::int64_t heads) {
  RunLayout layout;
  layout.layers = 3;
  layout.heads = heads;
  layout.tokens = 40;
  layout.prompt_length = 32;
  layout.scores = true;
  layout.metrics = {{"evicted_mass", {3, 4, 8}, {"layer", "query_head", "step"}, {}},
                    {"region_mass_before", {3, 4, 8, 2}, {"layer", "query_head", "step", "region"}, {"sinks", "recent"}}};
  return layout;
}

RunInfo info_of(int run) {
  RunInfo info;
  info.policy = "snapkv@paper:window=" + std::to_string(run);
  info.preset = "snapkv";
  info.parameters = R"({"window": 16})";
  info.budget = 16;
  info.cache_bytes = 1234567890123;
  info.full_cache_bytes = 2234567890123;
  info.peak_cache_bytes = 3;
  info.kept_sha256 = std::string(64, 'a');
  info.granularity = "kv_head";
  info.trace = "t.h5";
  info.seconds = 0.25;
  info.peak_bytes = 77;
  info.summary = {{"evicted_mass", 0.5}, {"cache_bytes", 12.0}};
  info.notes = {"nothing was evicted: the budget is above the sequence"};
  return info;
}

TEST(Results, WhatWasWrittenIsRead) {
  const samples::TemporaryFolder folder;
  const std::string path = folder.file("r.h5");
  const int runs = 40;
  {
    ResultsWriter writer(path);
    for (int run = 0; run < runs; ++run) EXPECT_EQ(writer.add_run(layout_of(run % 2 == 0 ? 2 : 1)), run);
    for (int layer = 0; layer < 3; ++layer)
      for (int run = 0; run < runs; ++run) {
        const std::int64_t heads = run % 2 == 0 ? 2 : 1;
        Tensor<std::int32_t, 2> evicted({heads, 40}, run + layer - 1);
        Tensor<float, 2> scores({heads, 32}, static_cast<float>(run));
        scores(0, 3) = std::nanf("");
        std::vector<float> mass(32), regions(64);
        std::iota(mass.begin(), mass.end(), static_cast<float>(run * 100 + layer));
        std::iota(regions.begin(), regions.end(), static_cast<float>(layer));
        writer.write_evicted(run, layer, evicted);
        writer.write_scores(run, layer, scores);
        writer.write_metric(run, layer, "evicted_mass", mass);
        writer.write_metric(run, layer, "region_mass_before", regions);
      }
    for (int run = 0; run < runs; ++run) writer.finish_run(run, info_of(run));
    writer.finish();
  }
  EXPECT_FALSE(std::filesystem::exists(path + ".partial"));
  const auto results = open_results(path);
  ASSERT_EQ(results->num_runs(), runs);
  const RunInfo& info = results->info(7);
  EXPECT_EQ(info.policy, "snapkv@paper:window=7");
  EXPECT_EQ(info.cache_bytes, 1234567890123);
  EXPECT_EQ(info.summary.at("evicted_mass"), 0.5);
  EXPECT_EQ(info.notes, info_of(7).notes);
  EXPECT_EQ(info.seconds, 0.25);
  EXPECT_EQ(results->metric_names(7), (std::vector<std::string>{"evicted_mass", "region_mass_before"}));
  const MetricValues mass = results->metric(7, "evicted_mass");
  EXPECT_EQ(mass.shape, (std::vector<std::int64_t>{3, 4, 8}));
  EXPECT_EQ(mass.axes, (std::vector<std::string>{"layer", "query_head", "step"}));
  EXPECT_EQ(mass.values[32 * 2 + 5], 707.0F);
  EXPECT_EQ(results->metric(6, "region_mass_before").region_names, (std::vector<std::string>{"sinks", "recent"}));
  EXPECT_EQ(results->evicted_at(6).shape(), (std::array<std::int64_t, 3>{3, 2, 40}));
  EXPECT_EQ(results->evicted_at(6)(2, 1, 39), 7);
  EXPECT_EQ(results->evicted_at(6, 1)(1, 0), 6);
  ASSERT_TRUE(results->has_scores(7));
  EXPECT_TRUE(std::isnan(results->scores(7, 0)(0, 3)));
  EXPECT_EQ(results->scores(7, 0)(0, 4), 7.0F);
  EXPECT_THROW(results->metric(7, "output_cosine"), Error);
}

// Chunks of several heads, a last one that is not full, and rows longer than a chunk.
TEST(Results, EvictionsOfAnyShapeAreReadBack) {
  const samples::TemporaryFolder folder;
  std::mt19937 random(3);
  for (const auto& [heads, tokens] : {std::pair<std::int64_t, std::int64_t>{3, 100'000}, {2, 300'001}, {5, 7}}) {
    RunLayout layout;
    layout.layers = 2;
    layout.heads = heads;
    layout.tokens = tokens;
    layout.prompt_length = tokens - 1;
    const std::string path = folder.file("r.h5");
    ResultsWriter writer(path);
    writer.add_run(layout);
    std::vector<Tensor<std::int32_t, 2>> written;
    for (int layer = 0; layer < 2; ++layer) {
      Tensor<std::int32_t, 2> evicted({heads, tokens});
      for (auto& when : evicted.flat()) when = static_cast<std::int32_t>(random() % 3) - 1;
      writer.write_evicted(0, layer, evicted);
      written.push_back(std::move(evicted));
    }
    EXPECT_THROW(writer.write_evicted(0, 2, written[0]), Error);
    RunInfo info;
    info.policy = "full";
    writer.finish_run(0, info);
    writer.finish();
    const auto results = open_results(path, Trust::trusted);
    for (int layer = 0; layer < 2; ++layer) {
      const auto read = results->evicted_at(0, layer);
      const auto& want = written[static_cast<std::size_t>(layer)];
      EXPECT_TRUE(std::equal(read.flat().begin(), read.flat().end(), want.flat().begin(), want.flat().end()));
    }
  }
}

TEST(Results, AReplayThatFailsLeavesNoFile) {
  const samples::TemporaryFolder folder;
  const std::string path = folder.file("r.h5");
  {
    ResultsWriter writer(path);
    writer.add_run(layout_of(2));
    EXPECT_THROW(writer.finish(), Error);
  }
  EXPECT_TRUE(std::filesystem::is_empty(std::filesystem::path(path).parent_path()));
}

}  // namespace
}  // namespace kvreplay
