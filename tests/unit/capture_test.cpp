// Captures against golden traces of real models, and what a capture holds for every choice of its options.
#include "core/model/capture.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/trace/trace.h"

namespace kvreplay {
namespace {

namespace fs = std::filesystem;

constexpr LayerDataset all_datasets[] = {LayerDataset::key,
                                         LayerDataset::value,
                                         LayerDataset::query,
                                         LayerDataset::attention,
                                         LayerDataset::log_sum_exp,
                                         LayerDataset::head_output,
                                         LayerDataset::output_projection,
                                         LayerDataset::attention_column_sum};

fs::path shared_data() {
  const char* shared = std::getenv("KVREPLAY_SHARED");
  return (shared != nullptr ? fs::path(shared) : fs::path(KVREPLAY_SOURCE_DIR) / ".." / "shared") / "data";
}

fs::path fixture(const std::string& name) { return fs::path(KVREPLAY_SOURCE_DIR) / "tests/fixtures/models" / name; }

// Cancels once so many tokens are done.
struct CancelAt final : Job {
  explicit CancelAt(double tokens) : limit(tokens) {}
  void advance_to(double done) override { reached = done; }
  bool cancelled() const override { return reached >= limit; }
  double limit, reached = 0;
};

double largest_difference(std::span<const float> a, std::span<const float> b, double& largest) {
  double worst = a.size() == b.size() ? 0 : INFINITY;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    largest = std::max(largest, std::abs(static_cast<double>(b[i])));
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
  }
  return worst;
}

void expect_close(std::span<const float> actual, std::span<const float> expected, double share, const std::string& what) {
  double largest = 0;
  const double worst = largest_difference(actual, expected, largest);
  EXPECT_GT(largest, 0) << what;
  EXPECT_LE(worst, share * largest) << what;
}

class Captures : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) /
              ("capture_" + std::to_string(getpid()) + "_" + testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    for (std::int32_t i = 0; i < 300; ++i) request_.ids.push_back((i * i + 7 * i + 3) % 77 + 3);
    request_.prompt_length = 280;
    request_.dtype = ElementType::float32;
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  std::unique_ptr<Trace> run(const std::string& name) {
    Job job;
    result_ = capture(engine_, nullptr, request_, path(name), false, nullptr, job);
    return open_trace(path(name));
  }

  fs::path folder_;
  Engine engine_ = Engine::load(fixture("gemma2").string());
  CaptureRequest request_;
  CaptureResult result_;
};

// float64 results stored as float32; 1e-4 of each tensor's largest magnitude is what golden/README.md asks for.
TEST(CapturesOfRealModels, AgreeWithTheGoldenTraces) {
  const std::vector<std::pair<std::string, std::string>> cases = {{"engine_stories260k", "stories260k-hf"},
                                                                  {"engine_tinystories656k", "tinystories-656k-hf"}};
  for (const auto& [name, model] : cases) {
    if (!fs::exists(shared_data() / model)) GTEST_SKIP() << (shared_data() / model) << " is not there: NOT TESTED";
    const auto golden = open_trace(std::string(KVREPLAY_SOURCE_DIR) + "/tests/golden/engine/" + name + ".h5");
    const Engine engine = Engine::load((shared_data() / model).string());
    CaptureRequest request;
    request.ids = golden->token_ids();
    request.prompt_length = golden->prompt_length();
    request.dtype = ElementType::float32;
    request.attention.kind = PositionSelection::Kind::all;
    const std::string out = testing::TempDir() + "/" + name + std::to_string(getpid()) + ".h5";
    Job job;
    const CaptureResult result = capture(engine, nullptr, request, out, false, nullptr, job);
    EXPECT_NEAR(static_cast<double>(result.bytes) / static_cast<double>(result.predicted_bytes), 1.0, 0.02);
    const auto trace = open_trace(out);
    EXPECT_EQ(trace->token_ids(), golden->token_ids());
    EXPECT_EQ(trace->layers(), golden->layers());
    EXPECT_EQ(trace->query_positions(), golden->query_positions());
    EXPECT_EQ(trace->attention_positions(), golden->attention_positions());
    EXPECT_EQ(trace->model().attention_scale, golden->model().attention_scale);
    EXPECT_EQ(trace->model().rope_theta, golden->model().rope_theta);
    expect_close(trace->nll(), golden->nll(), 1e-4, name + " nll");
    for (const int layer : golden->layers())
      for (const auto which : all_datasets) {
        const auto actual = trace->read(layer, which), expected = golden->read(layer, which);
        EXPECT_EQ(actual.shape(), expected.shape());
        expect_close(actual.flat(), expected.flat(), 1e-4,
                     name + " layer " + std::to_string(layer) + " " + std::string(layer_dataset_name(which)));
      }
    fs::remove(out);
  }
}

TEST(CapturesOfRealModels, GenerateTheExpectedIds) {
  const std::vector<std::pair<std::string, std::string>> cases = {{"stories260k-hf", "expected_greedy.json"},
                                                                  {"tinystories-656k-hf", "reference_greedy.json"}};
  for (const auto& [model, file] : cases) {
    if (!fs::exists(shared_data() / model)) GTEST_SKIP() << (shared_data() / model) << " is not there: NOT TESTED";
    std::ifstream stream(shared_data() / model / file);
    const auto expected = nlohmann::json::parse(stream);
    CaptureRequest request;
    request.ids = expected.at("prompt_ids").get<std::vector<std::int32_t>>();
    request.prompt_length = std::ssize(request.ids);
    const auto all = expected.at("greedy_ids").get<std::vector<std::int32_t>>();
    request.generate = std::ssize(all) - request.prompt_length;
    const std::string out = testing::TempDir() + "/greedy" + std::to_string(getpid()) + ".h5";
    Job job;
    capture(Engine::load((shared_data() / model).string()), nullptr, request, out, false, nullptr, job);
    EXPECT_EQ(open_trace(out)->token_ids(), all) << model;
    fs::remove(out);
  }
}

TEST_F(Captures, HoldOnlyWhatWasAskedFor) {
  const auto whole = run("whole.h5");
  request_.layers = {1, 2};
  request_.queries = {PositionSelection::Kind::window, 16};
  request_.attention = {PositionSelection::Kind::window, 3};
  const auto part = run("part.h5");
  EXPECT_EQ(part->layers(), (std::vector<int>{1, 2}));
  EXPECT_EQ(part->model().num_layers, 3);
  EXPECT_EQ(part->query_positions().front(), 280 - 16);
  EXPECT_EQ(part->query_positions().back(), 299);
  EXPECT_EQ(part->attention_positions().front(), 277);
  EXPECT_EQ(part->attention_positions().size(), 23U);
  for (const int layer : part->layers()) {
    EXPECT_EQ(part->sliding_window(layer), whole->sliding_window(layer));
    for (const auto which : {LayerDataset::key, LayerDataset::value, LayerDataset::attention_column_sum})
      EXPECT_TRUE(std::ranges::equal(part->read(layer, which).flat(), whole->read(layer, which).flat()));
    for (const auto which : {LayerDataset::query, LayerDataset::head_output})
      EXPECT_TRUE(std::ranges::equal(part->read(layer, which).flat(), whole->read(layer, which, {}, {264, 300}).flat()));
    const auto few = part->read(layer, LayerDataset::log_sum_exp), all = whole->read(layer, LayerDataset::log_sum_exp);
    const auto attention = part->read(layer, LayerDataset::attention);
    for (std::int64_t h = 0; h < 4; ++h) {
      for (std::int64_t i = 0; i < 36; ++i) EXPECT_EQ(few(0, h, i), all(0, h, 264 + i));
      for (std::int64_t i = 0; i < 23; ++i) {
        double mass = 0;
        for (std::int64_t j = 0; j < 300; ++j) mass += attention(h, i, j);
        EXPECT_NEAR(mass, 1, 1e-5);
        EXPECT_EQ(attention(h, i, 299), i == 22 ? attention(h, 22, 299) : 0.0F);
      }
    }
  }
  EXPECT_FALSE(whole->has(0, LayerDataset::attention));
}

// Given tokens and the same tokens generated make the same trace, within the rounding of blocks of another length.
TEST_F(Captures, OfGivenAndOfGeneratedTokensAgree) {
  request_.ids.resize(280);
  request_.generate = 20;
  const auto generated = run("generated.h5");
  EXPECT_EQ(generated->num_tokens(), 300);
  EXPECT_EQ(generated->prompt_length(), 280);
  EXPECT_EQ(generated->num_decode_steps(), 20);
  EXPECT_EQ(result_.generated.size(), 20U);
  request_.ids = generated->token_ids();
  request_.generate = 0;
  const auto given = run("given.h5");
  EXPECT_EQ(given->token_ids(), generated->token_ids());
  expect_close(given->nll(), generated->nll(), 2e-5, "nll");
  for (const auto which : {LayerDataset::key, LayerDataset::query, LayerDataset::head_output, LayerDataset::log_sum_exp})
    expect_close(given->read(2, which).flat(), generated->read(2, which).flat(), 2e-5,
                 std::string(layer_dataset_name(which)));
}

TEST_F(Captures, EndWithTheFirstStopTokenAndAreMadeShorter) {
  request_.ids.resize(280);
  request_.generate = 20;
  const auto free = run("free.h5");
  const std::int32_t stop = result_.generated[7];
  const auto first = std::ranges::find(result_.generated, stop) - result_.generated.begin();
  request_.stop_ids = {stop};
  const auto stopped = run("stopped.h5");
  EXPECT_TRUE(result_.stopped_early);
  EXPECT_EQ(stopped->num_tokens(), 280 + first + 1);
  EXPECT_EQ(stopped->token_ids().back(), stop);
  EXPECT_EQ(std::ssize(stopped->nll()), stopped->num_tokens());
  for (const auto which : {LayerDataset::key, LayerDataset::head_output}) {
    const auto shorter = stopped->read(1, which), longer = free->read(1, which, {}, {0, stopped->num_tokens()});
    EXPECT_TRUE(std::ranges::equal(shorter.flat(), longer.flat()));
  }
}

TEST_F(Captures, InHalfPrecisionAreTheRoundedOnes) {
  const auto exact = run("exact.h5");
  for (const auto type : {ElementType::float16, ElementType::bfloat16}) {
    request_.dtype = type;
    const auto rounded = run("rounded.h5");
    const double share = type == ElementType::float16 ? 0x1p-11 : 0x1p-8;  // half a unit in the last place, at the top
    for (const auto which : {LayerDataset::key, LayerDataset::value, LayerDataset::query, LayerDataset::output_projection}) {
      EXPECT_EQ(rounded->type(0, which), type);
      expect_close(rounded->read(0, which).flat(), exact->read(0, which).flat(), share, "rounded");
    }
    EXPECT_EQ(rounded->type(0, LayerDataset::head_output), ElementType::float16);
    EXPECT_EQ(rounded->type(0, LayerDataset::log_sum_exp), ElementType::float32);
  }
}

TEST_F(Captures, SayHowTheyCameToBe) {
  request_.command = "kvreplay capture --out \"x\"";
  const auto trace = run("t.h5");
  const auto manifest = nlohmann::json::parse(trace->manifest());
  EXPECT_EQ(manifest.at("model").at("name"), "gemma2");
  EXPECT_EQ(manifest.at("model").at("weights_sha256"), trace->model().weights_sha256);
  EXPECT_EQ(manifest.at("command"), request_.command);
  EXPECT_EQ(manifest.at("dtype"), "float32");
  EXPECT_EQ(trace->model().logit_softcap, 3.0);
  EXPECT_NEAR(trace->model().attention_scale, 1 / std::sqrt(24.0), 1e-15);
  EXPECT_EQ(trace->model().rope_layout, "half");
}

TEST_F(Captures, ThatAreCutOffOpenUpToTheCommittedMark) {
  for (const double at : {257.0, 281.0}) {
    CancelAt job(at);
    EXPECT_THROW(capture(engine_, nullptr, request_, path("cut.h5"), false, nullptr, job), Cancelled);
    EXPECT_FALSE(fs::exists(path("cut.h5")));
    const auto cut = open_trace(path("cut.h5.partial"));
    EXPECT_FALSE(cut->complete());
    EXPECT_EQ(cut->num_tokens(), at > 280 ? 280 : 256);
    const auto whole = run("whole.h5");
    const auto key = whole->read(2, LayerDataset::key, {}, {0, cut->num_tokens()});
    EXPECT_TRUE(std::ranges::equal(cut->read(2, LayerDataset::key).flat(), key.flat()));
    fs::remove(path("cut.h5.partial"));
  }
}

TEST_F(Captures, GoOnAfterAnyCutAndEndTheSame) {
  request_.ids.resize(280);
  request_.generate = 40;
  request_.attention = {PositionSelection::Kind::window, 30};
  request_.queries = {PositionSelection::Kind::window, 100};
  const auto whole = run("whole.h5");
  // In the first and the last block of the prompt, and while generating; the last one is cut twice.
  for (const std::vector<double>& cuts : std::vector<std::vector<double>>{{257}, {281}, {300}, {257, 310}}) {
    for (std::size_t i = 0; i < cuts.size(); ++i) {
      CancelAt job(cuts[i]);
      EXPECT_THROW(capture(engine_, nullptr, request_, path("cut.h5"), i > 0, nullptr, job), Cancelled);
    }
    Job job;
    const CaptureResult result = capture(engine_, nullptr, request_, path("cut.h5"), true, nullptr, job);
    EXPECT_GT(result.resumed_at, 0);
    EXPECT_FALSE(fs::exists(path("cut.h5.partial")));
    const auto resumed = open_trace(path("cut.h5"));
    EXPECT_TRUE(resumed->complete());
    EXPECT_EQ(resumed->token_ids(), whole->token_ids());
    EXPECT_EQ(resumed->manifest(), whole->manifest());
    const auto a = resumed->nll(), b = whole->nll();
    EXPECT_TRUE(std::equal(a.begin() + 1, a.end(), b.begin() + 1, b.end()));
    for (const int layer : whole->layers())
      for (const auto which : all_datasets)
        EXPECT_TRUE(std::ranges::equal(resumed->read(layer, which).flat(), whole->read(layer, which).flat()))
            << layer << " " << layer_dataset_name(which) << " after a cut at " << cuts.front();
  }
}

TEST_F(Captures, GoOnOnlyWithWhatBeganThem) {
  CancelAt cut(257);
  EXPECT_THROW(capture(engine_, nullptr, request_, path("cut.h5"), false, nullptr, cut), Cancelled);
  CaptureRequest other = request_;
  other.ids[290] = 4;
  Job job;
  EXPECT_THROW(capture(engine_, nullptr, other, path("cut.h5"), true, nullptr, job), Error);
  other = request_;
  other.dtype = ElementType::float16;
  EXPECT_THROW(capture(engine_, nullptr, other, path("cut.h5"), true, nullptr, job), Error);
  EXPECT_THROW(capture(Engine::load(fixture("gemma").string()), nullptr, request_, path("cut.h5"), true, nullptr, job),
               Error);
  EXPECT_THROW(capture(engine_, nullptr, request_, path("cut.h5"), false, nullptr, job), Error) << "without --resume";
  capture(engine_, nullptr, request_, path("cut.h5"), true, nullptr, job);
}

TEST_F(Captures, RefuseWhatContradictsItselfBeforeAFileIsMade) {
  const auto refused = [&](const CaptureRequest& request) {
    Job job;
    EXPECT_THROW(capture(engine_, nullptr, request, path("no.h5"), false, nullptr, job), Error);
    EXPECT_TRUE(fs::is_empty(folder_));
  };
  CaptureRequest request = request_;
  request.prompt_length = 301;
  refused(request);
  request = request_;
  request.prompt_length = 0;
  refused(request);
  request = request_;
  request.ids.clear();
  refused(request);
  request = request_;
  request.ids[5] = 80;
  refused(request);
  request = request_;
  request.layers = {3};
  refused(request);
  request = request_;
  request.spans = {{10, 301, "x"}};
  refused(request);
  Job job;
  EXPECT_THROW(capture(engine_, nullptr, request_, path("no.h5"), true, nullptr, job), Error) << "nothing to resume";
}

TEST(PositionSelections, AreReadAndCounted) {
  using Kind = PositionSelection::Kind;
  EXPECT_EQ(PositionSelection::parse("--q", "all", false).kind, Kind::all);
  EXPECT_EQ(PositionSelection::parse("--q", "none", true).kind, Kind::none);
  EXPECT_EQ(PositionSelection::parse("--q", "window:32", false).window, 32);
  for (const char* bad :
       {"none", "", "window", "window:", "window:0", "window:-1", "window:3x", "window:99999999999", "ALL"})
    EXPECT_THROW(PositionSelection::parse("--q", bad, false), Error) << bad;
  EXPECT_EQ((PositionSelection{Kind::window, 2}.positions(5, 8)), (std::vector<std::int32_t>{3, 4, 5, 6, 7}));
  EXPECT_EQ((PositionSelection{Kind::window, 9}.positions(5, 6)), (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_TRUE((PositionSelection{Kind::none, 0}.positions(5, 6)).empty());
}

}  // namespace
}  // namespace kvreplay
