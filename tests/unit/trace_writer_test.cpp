// Is what was written what is read, byte for byte, and can others read it?
#include <gtest/gtest.h>

#include <filesystem>

#include "core/base/error.h"
#include "core/trace/trace.h"
#include "core/trace/trace_writer.h"
#include "tests/unit/trace_samples.h"

namespace kvreplay {
namespace {

using samples::TemporaryFolder;

TEST(TraceWriter, WhatWasWrittenIsRead) {
  for (const auto type : {ElementType::float32, ElementType::float16, ElementType::bfloat16}) {
    const TemporaryFolder folder;
    samples::TraceMaker maker(samples::small_layout(700, 650), 7);
    maker.layout.tensor_type = type;
    const std::string path = folder.file("t.h5");
    maker.write(path, 100);
    const auto trace = open_trace(path);
    EXPECT_TRUE(trace->complete());
    EXPECT_EQ(trace->num_tokens(), 700);
    EXPECT_EQ(trace->prompt_length(), 650);
    maker.expect_equal(*trace, 700);
    EXPECT_FALSE(std::filesystem::exists(path + ".partial"));
  }
}

TEST(TraceWriter, AGenerationThatEndsEarlyShrinksTheFile) {
  const TemporaryFolder folder;
  samples::TraceMaker maker(samples::small_layout(700, 400), 11);
  const std::string path = folder.file("t.h5");
  maker.write(path, 100, 541);
  const auto trace = open_trace(path);
  EXPECT_TRUE(trace->complete());
  EXPECT_EQ(trace->num_tokens(), 541);
  maker.expect_equal(*trace, 541);
}

TEST(TraceWriter, ThePredictedSizeIsRight) {
  for (const std::int64_t tokens : {1, 5, 60, 300, 2500}) {
    const TemporaryFolder folder;
    samples::TraceMaker maker(samples::small_layout(tokens, tokens), 3);
    const std::string path = folder.file("t.h5");
    maker.write(path, 256);
    const auto predicted = static_cast<double>(TraceWriter::predicted_size(maker.layout));
    const auto size = static_cast<double>(std::filesystem::file_size(path));
    EXPECT_NEAR(predicted / size, 1.0, 0.02) << tokens << " tokens: predicted " << predicted << ", is " << size;
  }
}

}  // namespace
}  // namespace kvreplay
