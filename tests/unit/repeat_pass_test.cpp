// Does the second pass of a capture hold what the model computes when it reads the requests after the prompt?
#include "core/model/repeat_pass.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "core/base/error.h"
#include "core/model/capture.h"
#include "core/trace/validate.h"

namespace kvreplay {
namespace {

namespace fs = std::filesystem;

class RepeatPasses : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "repeatXXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    for (std::int32_t i = 0; i < 110; ++i) request_.ids.push_back((i * i + 7 * i + 3) % 77 + 3);
    request_.prompt_length = 100;
    request_.generate = 6;
    request_.dtype = ElementType::float32;
    RepeatRequest repeat;
    repeat.context_begin = 2;
    repeat.context_end = 97;
    repeat.chunk = 40;
    repeat.first = {5, 6, 7};
    repeat.next = {8, 9};
    repeat.suffix = {11};
    repeat.postfix = 4;
    request_.repeat = repeat;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::unique_ptr<Trace> run(const CaptureRequest& request, const std::string& name) {
    Job job;
    const std::string path = folder_ + "/" + name;
    const CaptureResult result = capture(engine_, nullptr, request, path, false, nullptr, job);
    EXPECT_NEAR(static_cast<double>(result.predicted_bytes) / static_cast<double>(result.bytes), 1, 0.02) << name;
    return open_trace(path);
  }

  Engine engine_ = Engine::load(KVREPLAY_SOURCE_DIR "/tests/fixtures/models/llama3");
  std::string folder_;
  CaptureRequest request_;
};

TEST_F(RepeatPasses, AskForEveryChunkOfTheContext) {
  const std::vector<std::int32_t> prompt(request_.ids.begin(), request_.ids.begin() + 100);
  const auto readings = repeat_readings(prompt, *request_.repeat);
  ASSERT_EQ(readings.size(), 3U);
  std::vector<std::int32_t> first = {5, 6, 7, 11}, last = {8, 9};
  first.insert(first.end(), prompt.begin() + 2, prompt.begin() + 42);
  last.insert(last.end(), prompt.begin() + 78, prompt.begin() + 82);
  last.push_back(11);
  last.insert(last.end(), prompt.begin() + 82, prompt.begin() + 97);
  EXPECT_EQ(readings[0].ids, first);
  EXPECT_EQ(readings[2].ids, last);
  EXPECT_EQ(readings[2].begin, 82);
  EXPECT_EQ(readings[2].end, 97);
  request_.repeat->context_end = 101;
  EXPECT_THROW(repeat_readings(prompt, *request_.repeat), Error);
}

TEST_F(RepeatPasses, HoldWhatTheModelComputesAfterThePrompt) {
  const auto trace = run(request_, "pass.h5");
  EXPECT_EQ(trace->extension_text("/repeat_pass", "layout"),
            R"({"context_begin":2,"context_end":97,"chunks":[[2,42,44],[42,82,47],[82,97,22]]})");
  const std::vector<std::int32_t> prompt(request_.ids.begin(), request_.ids.begin() + 100);
  std::int64_t first = 0;
  for (const auto& reading : repeat_readings(prompt, *request_.repeat)) {
    CaptureRequest plain = request_;  // the prompt and the request as one text
    plain.repeat.reset();
    plain.generate = 0;
    plain.ids = prompt;
    plain.ids.insert(plain.ids.end(), reading.ids.begin(), reading.ids.end());
    const auto whole = run(plain, "whole.h5");
    const auto rows = std::ssize(reading.ids);
    for (const int layer : trace->layers())
      for (const auto& [name, which] : {std::pair{"query", LayerDataset::query}, std::pair{"key", LayerDataset::key}}) {
        const auto got =
            trace->read_extension("/repeat_pass/00" + std::to_string(layer) + "/" + name, {}, {first, first + rows});
        const auto wanted = whole->read(layer, which, {}, {100, 100 + rows});
        ASSERT_EQ(got.shape(), wanted.shape());
        for (std::int64_t i = 0; i < got.size(); ++i)  // blocks are cut elsewhere: rounding
          ASSERT_NEAR(got.data()[i], wanted.data()[i], 2e-4) << name << " " << layer << " " << i;
      }
    first += rows;
  }
}

TEST_F(RepeatPasses, LeaveTheRestOfTheTraceAsItIs) {
  CaptureRequest plain = request_;
  plain.repeat.reset();
  request_.dtype = plain.dtype = ElementType::bfloat16;
  const auto with = run(request_, "pass.h5"), without = run(plain, "plain.h5");
  EXPECT_EQ(with->token_ids(), without->token_ids());
  for (const int layer : with->layers())
    for (const auto which : {LayerDataset::key, LayerDataset::query, LayerDataset::attention_column_sum}) {
      const auto a = with->read(layer, which), b = without->read(layer, which);
      EXPECT_TRUE(std::equal(a.flat().begin(), a.flat().end(), b.flat().begin(), b.flat().end()));
    }
  EXPECT_TRUE(without->extension_members("/repeat_pass").empty());
  EXPECT_EQ(with->extension_members("/repeat_pass").size(), with->layers().size());
  Job job;
  EXPECT_TRUE(validate_file(folder_ + "/pass.h5", Trust::trusted, job).problems.empty());
  const auto sandboxed = open_trace(folder_ + "/pass.h5", Trust::sandboxed);
  const auto a = with->read_extension("/repeat_pass/000/key"), b = sandboxed->read_extension("/repeat_pass/000/key");
  EXPECT_TRUE(std::equal(a.flat().begin(), a.flat().end(), b.flat().begin(), b.flat().end()));
}

}  // namespace
}  // namespace kvreplay
