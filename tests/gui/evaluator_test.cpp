// Is what is evaluated live what a replay writes, bit for bit, and does a newer request end an older one?
#include "gui/model/evaluator.h"

#include <gtest/gtest.h>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "core/replay/replay.h"
#include "tests/gui/example.h"

namespace kvreplay::gui {
namespace {

RunSpec live(int id, const std::string& policy, const std::string& budget) {
  RunSpec spec;
  spec.id = id;
  spec.trace = 1;
  spec.policy = policy;
  spec.budget = budget;
  return spec;
}

// Keeps what an evaluator says.
struct Listener {
  explicit Listener(Evaluator& evaluator) {
    QObject::connect(&evaluator, &Evaluator::run_changed, &evaluator, [this](int id, std::shared_ptr<const Run> run) {
      EXPECT_EQ(run->spec.id, id);
      runs.push_back(std::move(run));
    });
    QObject::connect(&evaluator, &Evaluator::progressed, &evaluator,
                     [this](const Progress& progress) { progresses.push_back(progress); });
  }
  bool complete(const RunSpec& spec) const {
    return !runs.empty() && runs.back()->spec == spec && (runs.back()->complete || !runs.back()->problem.empty());
  }
  std::vector<std::shared_ptr<const Run>> runs;
  std::vector<Progress> progresses;
};

std::vector<float> of_layer(const MetricValues& values, int layer) {
  const auto each = static_cast<std::ptrdiff_t>(values.values.size()) / values.shape.front();
  return {values.values.begin() + layer * each, values.values.begin() + (layer + 1) * each};
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class LiveIsReplay : public testing::TestWithParam<const char*> {};

TEST_P(LiveIsReplay, BitForBit) {
  const auto document = example_document();
  const RunSpec spec = live(1, GetParam(), "40%");
  Evaluator evaluator([] { return make_cpu_backend(); });
  const Listener heard(evaluator);
  // Another budget before, so that full attention is kept and used again.
  const RunSpec before = live(1, GetParam(), "60%");
  evaluator.want({{before, document, nullptr, true}});
  ASSERT_TRUE(wait_until([&] { return heard.complete(before); }));
  evaluator.look_at(1, 5);  // a step that is measured ahead of its turn
  evaluator.want({{spec, document, nullptr, true}});
  ASSERT_TRUE(wait_until([&] { return heard.complete(spec); }));
  const kvreplay::gui::Run& run = *heard.runs.back();
  ASSERT_EQ(run.problem, "");

  const Folder folder;
  const std::string path = (folder.path / "r.h5").string();
  ReplayRequest request;
  request.policies = {parse_policy(GetParam())};
  request.budgets = {Budget::parse("40%")};
  request.scores = true;
  ResultsWriter writer(path);
  Job job;
  const auto backend = make_cpu_backend();
  const RunInfo written = replay(document->trace(), request, *backend, writer, job).front();
  writer.finish();
  const auto results = open_results(path);
  for (int layer = 0; layer < document->num_layers(); ++layer) {
    const auto evicted_at = results->evicted_at(0, layer);
    const auto shown = run.layer(layer)->evicted_at().flat();
    EXPECT_TRUE(std::equal(shown.begin(), shown.end(), evicted_at.flat().begin(), evicted_at.flat().end()))
        << "layer " << layer;
  }
  std::size_t compared = 0;
  for (const std::string& metric : run.metric_names()) {
    const MetricValues all = results->metric(0, metric);
    for (int layer = 0; layer < document->num_layers(); ++layer, ++compared)
      EXPECT_TRUE(same_bits(run.layer(layer)->metrics.at(metric).values, of_layer(all, layer)))
          << metric << " of layer " << layer;
  }
  EXPECT_GE(compared, 18U);
  EXPECT_EQ(run.info.kept_sha256, written.kept_sha256);
  EXPECT_EQ(run.info.cache_bytes, written.cache_bytes);
  EXPECT_EQ(run.info.peak_cache_bytes, written.peak_cache_bytes);
  for (const auto& [key, value] : run.info.summary) EXPECT_EQ(value, written.summary.at(key)) << key;
  EXPECT_GT(run.info.summary.at("output_error"), 0);
}

INSTANTIATE_TEST_SUITE_P(Policies, LiveIsReplay,
                         testing::Values("snapkv", "snapkv@released", "restkv", "h2o", "tova", "adakv", "streaming_llm",
                                         "snapkv:merge=pivot", "oracle_attention"),
                         [](const auto& test) { return std::to_string(test.index); });

TEST(NewerRequests, SupersedeOlderOnes) {
  const auto document = example_document();
  Evaluator evaluator([] { return make_cpu_backend(); });
  const Listener heard(evaluator);
  RunSpec last;
  for (int budget = 40; budget < 120; ++budget) {
    last = live(1, "restkv", std::to_string(budget));
    evaluator.want({{last, document, nullptr, true}});
  }
  ASSERT_TRUE(wait_until([&] { return heard.complete(last); }));
  // Not one complete run for each of the 80.
  int complete = 0;
  for (const auto& run : heard.runs) complete += run->complete ? 1 : 0;
  EXPECT_LE(complete, 3);
}

TEST(NewerRequests, LeaveOtherRunsAlone) {
  const auto document = example_document();
  Evaluator evaluator([] { return make_cpu_backend(); });
  const Listener heard(evaluator);
  const RunSpec a = live(1, "snapkv", "50");
  evaluator.want({{a, document, nullptr, true}});
  ASSERT_TRUE(wait_until([&] { return heard.complete(a); }));
  const std::size_t before = heard.runs.size();
  const RunSpec b = live(2, "restkv", "50");
  evaluator.want({{a, document, nullptr, true}, {b, document, nullptr, true}});
  ASSERT_TRUE(wait_until([&] { return heard.complete(b); }));
  for (std::size_t i = before; i < heard.runs.size(); ++i) EXPECT_EQ(heard.runs[i]->spec, b);
}

TEST(TheLayerOnScreen, ComesFirst) {
  const auto document = example_document();
  Evaluator evaluator([] { return make_cpu_backend(); });
  const Listener heard(evaluator);
  evaluator.look_at(2, 0);
  const RunSpec spec = live(1, "snapkv", "50");
  evaluator.want({{spec, document, nullptr, true}});
  ASSERT_TRUE(wait_until([&] { return heard.complete(spec); }));
  EXPECT_NE(heard.runs.front()->layer(2), nullptr);
}

TEST(WhatFails, IsSaidInTheRun) {
  const auto document = example_document();
  Evaluator evaluator([] { return make_cpu_backend(); });
  const Listener heard(evaluator);
  const RunSpec spec = live(1, "snapkv", "3");
  evaluator.want({{spec, document, nullptr, true}});
  ASSERT_TRUE(wait_until([&] { return heard.complete(spec); }));
  EXPECT_NE(heard.runs.back()->problem.find("always keeps"), std::string::npos) << heard.runs.back()->problem;
}

TEST(Cancelling, EndsTheWorkAndKeepsWhatCame) {
  SyntheticParameters parameters = example_parameters();
  parameters.layers = 12;
  parameters.prompt = 3000;
  parameters.decode = 48;
  const auto document = std::make_shared<const Document>(make_synthetic(parameters));
  Evaluator evaluator([] { return make_cpu_backend(); });
  const Listener heard(evaluator);
  const RunSpec spec = live(1, "restkv", "10%");
  evaluator.want({{spec, document, nullptr, true}});
  ASSERT_TRUE(wait_until([&] { return !heard.progresses.empty(); }));
  EXPECT_TRUE(heard.progresses.front().working);
  EXPECT_GT(heard.progresses.front().seconds_spent, 0);
  evaluator.cancel();
  ASSERT_TRUE(wait_until([&] { return !heard.progresses.back().working; }));
  ASSERT_FALSE(heard.runs.empty());
  EXPECT_FALSE(heard.runs.back()->complete);
  EXPECT_NE(heard.runs.back()->layer(0), nullptr);
  const std::size_t before = heard.runs.size();
  evaluator.want({{spec, document, nullptr, true}});
  EXPECT_FALSE(wait_until([&] { return heard.runs.size() > before; }, 1));
  // It goes on when another layer is looked at, with that layer.
  evaluator.look_at(11, 0);
  EXPECT_TRUE(wait_until([&] { return heard.runs.size() > before && heard.runs.back()->layer(11) != nullptr; }));
}

TEST(ReadingAgain, ShowsWhatAResultsFileHoldsNow) {
  const auto document = example_document();
  const Folder folder;
  const std::string path = (folder.path / "r.h5").string();
  const auto write = [&](const std::string& policy) {
    ReplayRequest request;
    request.policies = {parse_policy(policy)};
    request.budgets = {Budget::parse("40%")};
    ResultsWriter writer(path);
    Job job;
    const auto backend = make_cpu_backend();
    replay(document->trace(), request, *backend, writer, job);
    writer.finish();
  };
  RunSpec spec;
  spec.id = 1;
  spec.trace = 1;
  spec.source = RunSpec::Source::results;
  spec.results = 2;
  Evaluator evaluator([] { return make_cpu_backend(); });
  const Listener heard(evaluator);
  write("snapkv");
  evaluator.want({{spec, document, open_results(path), true}});
  ASSERT_TRUE(wait_until([&] { return heard.complete(spec); }));
  EXPECT_EQ(heard.runs.back()->info.preset, "snapkv");
  write("tova");
  evaluator.want({{spec, document, open_results(path), true}});
  EXPECT_TRUE(wait_until([&] { return heard.complete(spec) && heard.runs.back()->info.preset == "tova"; }));
}

}  // namespace
}  // namespace kvreplay::gui
