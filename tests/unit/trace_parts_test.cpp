// Do the small parts of the trace library do what their definitions say?
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <random>
#include <string>

#include "core/base/crc32c.h"
#include "core/trace/finite_internal.h"
#include "core/trace/results.h"
#include "core/trace/trace_writer.h"
#include "tests/unit/trace_samples.h"

namespace kvreplay {
namespace {

TEST(Crc32c, IsCastagnolisAndTheFastFormIsThePlainOne) {
  EXPECT_EQ(crc32c("123456789", 9), 0xe3069283U);  // the check value of the CRC catalogues
  EXPECT_EQ(crc32c("", 0), 0U);
  std::mt19937 random(5);
  std::string bytes(1000, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  for (std::size_t size = 0; size < 100; ++size)
    EXPECT_EQ(crc32c(bytes.data() + 3, size), crc32c_plain(bytes.data() + 3, size));
  EXPECT_EQ(crc32c(bytes.data() + 400, 600, crc32c(bytes.data(), 400)), crc32c(bytes.data(), 1000));
}

TEST(FirstNotFinite, FindsTheFirstWhereverItIs) {
  std::vector<float> values(1000, 1.0F);
  EXPECT_EQ(first_not_finite(values.data(), values.size()), values.size());
  for (const std::size_t at : {0U, 255U, 256U, 511U, 700U, 999U}) {
    for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
      values[at] = bad;
      EXPECT_EQ(first_not_finite(values.data(), values.size()), at);
    }
    values[at] = 3e38F;
    EXPECT_EQ(first_not_finite(values.data(), values.size()), values.size());
  }
}

// More than one compressed chunk, so that several threads decode; in this process and in the sandbox.
TEST(CompressedChunks, GiveBackWhatWentIn) {
  const samples::TemporaryFolder folder;
  const std::string path = folder.file("r.h5");
  RunLayout layout;
  layout.layers = 3;
  layout.heads = 70;
  layout.tokens = 5000;
  layout.prompt_length = 4900;
  std::mt19937 random(8);
  std::vector<Tensor<std::int32_t, 2>> written;
  {
    ResultsWriter writer(path);
    writer.add_run(layout);
    for (int layer = 0; layer < 3; ++layer) {
      written.emplace_back(Tensor<std::int32_t, 2>({layout.heads, layout.tokens}));
      for (auto& value : written.back().flat()) value = static_cast<std::int32_t>(random() % 100) - 1;
      writer.write_evicted(0, layer, written.back());
    }
    RunInfo info;
    info.policy = "random";
    info.granularity = "query_head";
    writer.finish_run(0, info);
    writer.finish();
  }
  for (const Trust trust : {Trust::trusted, Trust::sandboxed}) {
    const auto results = open_results(path, trust);
    const auto all = results->evicted_at(0);
    for (int layer = 0; layer < 3; ++layer) {
      const auto& wanted = written[static_cast<std::size_t>(layer)];
      const auto one = results->evicted_at(0, layer);
      EXPECT_TRUE(std::equal(one.flat().begin(), one.flat().end(), wanted.flat().begin()));
      EXPECT_TRUE(std::equal(wanted.flat().begin(), wanted.flat().end(), all.view()[layer].data()));
    }
  }
}

TEST(PredictedSize, IsRightForManyLayouts) {
  for (int variant = 0; variant < 5; ++variant) {
    const samples::TemporaryFolder folder;
    TraceLayout layout = samples::small_layout(variant == 0 ? 3 : 900, variant == 0 ? 2 : 800);
    if (variant == 1) layout.attention_positions.clear();
    if (variant == 2) layout.tensor_type = ElementType::bfloat16;
    if (variant == 3) layout.query_positions.erase(layout.query_positions.begin(), layout.query_positions.begin() + 780);
    if (variant == 4) {
      layout.model.num_layers = 24;
      layout.layers.clear();
      layout.sliding_window.clear();
      for (int layer = 0; layer < 24; ++layer) layout.layers.push_back(layer);
    }
    const samples::TraceMaker maker(layout, 3);
    maker.write(folder.file("t.h5"), 256);
    const auto size = static_cast<double>(std::filesystem::file_size(folder.file("t.h5")));
    EXPECT_NEAR(static_cast<double>(TraceWriter::predicted_size(layout)) / size, 1, 0.02) << "variant " << variant;
  }
}

}  // namespace
}  // namespace kvreplay
