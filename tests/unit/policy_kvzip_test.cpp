// KVzip from a repeat pass: plain float64 references, the order of layers, and what a trace without a pass is told.
#include <gtest/gtest.h>

#include <cmath>

#include "core/base/error.h"
#include "tests/unit/policy_reference.h"

namespace kvreplay {
namespace {

using reference::evict;
using reference::Layer;
using reference::Rows;
using reference::Shape;
using reference::shape_of;

using Scores = std::vector<std::vector<double>>;  // [Hk][P]

// The pass of reference::add_repeat_pass: chunks of 40 after 3 tokens, read after 2 tokens of request.
Scores repeat_scores_of(const MemoryTraceContents& contents, int l) {
  const Layer layer{contents, l};
  const std::string node = "/repeat_pass/00" + std::to_string(l);
  const auto &query = contents.extensions.at(node + "/query"), &repeated = contents.extensions.at(node + "/key");
  const int prompt = static_cast<int>(contents.prompt_length), d = contents.model.head_dim;
  Scores scores(static_cast<std::size_t>(contents.model.num_kv_heads),
                std::vector<double>(static_cast<std::size_t>(prompt)));
  for (auto& row : scores) std::fill_n(row.begin(), 3, 1.0);
  for (int begin = 3, first = 0; begin < prompt; begin += 40) {
    const int end = std::min(begin + 40, prompt), rows = end - begin + 2;
    for (int h = 0; h < contents.model.num_query_heads; ++h)
      for (int r = first; r < first + rows; ++r) {
        std::vector<double> weight;  // of sinks, the chunk, the repeating tokens so far
        double total = 0;
        const auto see = [&](const Tensor<float, 3>& keys, int t) {
          double dot = 0;
          for (int i = 0; i < d; ++i) dot += static_cast<double>(query(h, r, i)) * keys(h / layer.group(), t, i);
          weight.push_back(std::exp(dot * contents.model.attention_scale));
          total += weight.back();
        };
        for (int t = 0; t < 3; ++t) see(contents.tensors.at({l, LayerDataset::key}), t);
        for (int t = begin; t < end; ++t) see(contents.tensors.at({l, LayerDataset::key}), t);
        for (int t = first; t <= r; ++t) see(repeated, t);
        for (int t = begin; t < end; ++t) {
          double& score = scores[static_cast<std::size_t>(h / layer.group())][static_cast<std::size_t>(t)];
          score = std::max(score, weight[static_cast<std::size_t>(3 + t - begin)] / total);
        }
      }
    first += rows;
  }
  return scores;
}

Rows every_layer(const MemoryTraceContents& contents, const std::string& policy, int budget) {
  Rows rows;
  for (int l = 0; l < contents.model.num_layers; ++l)
    for (const auto& row : evict(contents, policy, budget, l)) rows.push_back(row);
  return rows;
}

// evicted_at of all layers and heads, where `evicts` says which scores go.
template <class Evicts>
Rows rows_where(const std::vector<Scores>& layers, const Shape& shape, Evicts evicts) {
  Rows rows;
  for (const auto& layer : layers)
    for (const auto& head : layer) {
      rows.emplace_back(static_cast<std::size_t>(shape.prompt + shape.steps), -1);
      for (std::size_t t = 0; t < head.size(); ++t)
        if (evicts(layer, head[t], static_cast<int>(t))) rows.back()[t] = 0;
    }
  return rows;
}

std::vector<double> sorted_scores(const std::vector<Scores>& layers, int begin) {
  std::vector<double> all;
  for (const auto& layer : layers)
    for (const auto& head : layer) all.insert(all.end(), head.begin() + begin, head.end());
  std::sort(all.begin(), all.end());
  return all;
}

TEST(PolicyReference, KvZip) {
  Shape shape = shape_of(50);
  shape.layers = 3;
  const auto contents = reference::random_contents(shape);
  std::vector<Scores> layers;
  for (int l = 0; l < shape.layers; ++l) layers.push_back(repeat_scores_of(contents, l));
  const int budget = 36;  // r = 0.6: 54 of 90
  const auto lowest = sorted_scores(layers, 0);
  EXPECT_EQ(every_layer(contents, "kvzip@kvpress", budget),
            rows_where(layers, shape, [&](const Scores&, double score, int) { return score < lowest[3 * 2 * 54]; }));
  EXPECT_EQ(every_layer(contents, "kvzip@kvpress:layerwise=true", budget),
            rows_where(layers, shape,
                       [&](const Scores& layer, double score, int) { return score < sorted_scores({layer}, 0)[2 * 54]; }));
  // 87 tokens of context of which 33 are to stay beside the 3 before it: strictly above the int(522 · (33 / 87))-th largest.
  const auto context = sorted_scores(layers, 3);
  EXPECT_EQ(every_layer(contents, "kvzip@original", budget),
            rows_where(layers, shape, [&](const Scores&, double score, int t) {
              return t >= 3 && score <= context[context.size() - static_cast<std::size_t>(522 * (33.0 / 87))];
            }));
}

TEST(KvZip, TokensBeforeTheContextBeyondTheFourthGoFirst) {
  const Shape shape = shape_of(51);
  auto contents = reference::random_contents(shape);
  contents.extension_texts[{"/repeat_pass", "layout"}] =
      R"({"context_begin": 10, "context_end": 88, "chunks": [[10, 43, 42], [43, 88, 51]]})";
  for (const auto& row : evict(contents, "kvzip@kvpress:layerwise=true", 80)) {
    EXPECT_EQ(std::count(row.begin() + 4, row.begin() + 10, 0), 6) << "never scored";
  }
  for (const auto& row : evict(contents, "kvzip@kvpress:layerwise=true", 8)) {
    EXPECT_EQ(std::count(row.begin(), row.begin() + 4, -1), 4);
    EXPECT_EQ(std::count(row.begin() + 88, row.begin() + 90, -1), 2) << "after the context: not compressed";
  }
}

// The int(r · pairs) lowest of all layers, pairs with the r of their own layer: int(0.5 · 180) and int(0.09999999999999998 ·
// 100), 1 - 45 / 50 being just below 0.1.
TEST(KvZip, LayersWithASlidingWindowCountByTheirOwnLength) {
  Shape shape = shape_of(53);
  shape.layers = 2;
  for (const std::vector<int>& windows : {std::vector<int>{0, 50}, std::vector<int>{50, 0}}) {
    auto contents = reference::random_contents(shape);
    contents.sliding_window = windows;
    std::int64_t evicted = 0;
    for (const auto& row : every_layer(contents, "kvzip@kvpress", 45)) evicted += std::count(row.begin(), row.end(), 0);
    EXPECT_EQ(evicted, 90 + 9) << "windows " << windows[0] << " and " << windows[1];
  }
}

TEST(KvZip, SaysWhatIsMissingOrWrong) {
  const Shape shape = shape_of(52);
  const auto good = reference::random_contents(shape);
  const auto refusal = [](const MemoryTraceContents& contents) -> std::string {
    return reference::refusal_of([&] { evict(contents, "kvzip", 20); });
  };
  EXPECT_EQ(refusal(good), "");
  auto contents = good;
  contents.extension_texts.clear();
  EXPECT_NE(refusal(contents).find("<memory>:/repeat_pass: is not in this trace"), std::string::npos) << refusal(contents);
  EXPECT_NE(refusal(contents).find("kvreplay capture --repeat-pass"), std::string::npos) << refusal(contents);
  contents = good;
  contents.extensions.erase("/repeat_pass/001/key");
  EXPECT_NE(refusal(contents).find("/repeat_pass/001/key"), std::string::npos) << refusal(contents);
  for (const char* layout :
       {"no json", "{}", R"({"context_begin": 0, "context_end": 50, "chunks": [[0, 20, 3], [30, 50, 3]]})",
        R"({"context_begin": 0, "context_end": 95, "chunks": [[0, 95, 95]]})",
        R"({"context_begin": 0, "context_end": 5, "chunks": [[0, 5, -1]]})",
        R"({"context_begin": 0, "context_end": 5, "chunks": [[0, 5, 7]]})",
        R"({"context_begin": 0, "context_end": 0, "chunks": []})"}) {
    contents = good;
    contents.extension_texts[{"/repeat_pass", "layout"}] = layout;
    EXPECT_NE(refusal(contents).find("/repeat_pass"), std::string::npos) << layout << ": " << refusal(contents);
  }
}

}  // namespace
}  // namespace kvreplay
