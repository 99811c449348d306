// How much of a kept set survives half precision: are the shares right, and is the comparison with that very policy?
#include <gtest/gtest.h>

#include "core/replay/stability_internal.h"
#include "tests/unit/replay_runs.h"

namespace kvreplay {
namespace {

using namespace replay_runs;

TEST(Stability, SharesAreOverTheKeptPromptTokensAndTheWorstHeadIsApart) {
  LoadedLayer layer;
  layer.tokens = 7;
  layer.prompt = 6;
  layer.first_candidate = 1;
  // Token 0 is out of the sliding window, token 6 was generated. Head 0 keeps {1, 2, 3, 4} and {1, 2, 3, 5}; head 1 {2, 3}
  // both.
  Tensor<std::int32_t, 2> plain({2, 7}, -1), half({2, 7}, -1);
  plain(0, 5) = 0;
  half(0, 4) = 2;  // evicted while decoding is evicted
  for (const int token : {1, 4, 5}) plain(1, token) = half(1, token) = 0;
  half(1, 6) = 1;
  KeptOverlap overlap;
  overlap.add_layer(layer, plain, half);
  std::map<std::string, double> summary;
  overlap.summarise(summary);
  EXPECT_DOUBLE_EQ(summary.at("kept_overlap_fp16"), 5.0 / 6);
  EXPECT_DOUBLE_EQ(summary.at("kept_jaccard_fp16"), 5.0 / 7);
  EXPECT_DOUBLE_EQ(summary.at("kept_overlap_fp16_worst"), 3.0 / 4);
  EXPECT_DOUBLE_EQ(summary.at("kept_jaccard_fp16_worst"), 3.0 / 5);

  overlap.add_layer(layer, plain, plain);
  overlap.summarise(summary);
  EXPECT_DOUBLE_EQ(summary.at("kept_overlap_fp16"), 11.0 / 12);
  EXPECT_DOUBLE_EQ(summary.at("kept_overlap_fp16_worst"), 3.0 / 4);
}

TEST(Stability, IsThatOfThePolicyWithHalfPrecisionScores) {
  const Folder folder;
  Shape shape = two_layers();
  shape.prompt = 400;
  shape.sharpness = 0.02;  // nearly uniform attention: many near ties
  const auto contents = reference::random_contents(shape);
  ReplayRequest request;
  request.stability = true;
  const auto outcome = run(folder, contents, {"snapkv", "snapkv:score_dtype=fp16"}, {"100"}, request);
  const auto a = outcome.results->evicted_at(0), b = outcome.results->evicted_at(1);
  double both = 0, kept = 0;
  for (std::int64_t i = 0; i < a.size(); ++i) {
    if (i % a.dim(2) >= 400) continue;
    both += a.data()[i] == -1 && b.data()[i] == -1 ? 1 : 0;
    kept += a.data()[i] == -1 ? 1 : 0;
  }
  const auto& summary = outcome.runs[0].summary;
  EXPECT_DOUBLE_EQ(summary.at("kept_overlap_fp16"), both / kept);
  EXPECT_LT(summary.at("kept_overlap_fp16"), 1) << "near ties fall either way";
  EXPECT_LE(summary.at("kept_overlap_fp16_worst"), summary.at("kept_overlap_fp16"));
  EXPECT_EQ(outcome.runs[1].summary.count("kept_overlap_fp16"), 0U) << "half precision already";
}

}  // namespace
}  // namespace kvreplay
