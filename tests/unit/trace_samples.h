// Small traces with known contents, for the tests of everything that reads or writes traces.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/trace/trace.h"
#include "core/trace/trace_writer.h"

namespace kvreplay::samples {

// A folder that goes away with the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "kvreplay-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

// 3 layers of a model of 4, 4 query heads over 2, every dataset of the format, text and spans.
inline TraceLayout small_layout(std::int64_t tokens, std::int64_t prompt_length) {
  TraceLayout layout;
  layout.model.name = "sample";
  layout.model.architecture = "llama";
  layout.model.num_layers = 4;
  layout.model.num_query_heads = 4;
  layout.model.num_kv_heads = 2;
  layout.model.head_dim = 8;
  layout.model.hidden_size = 24;
  layout.model.attention_scale = 1 / std::sqrt(8.0);
  layout.model.rope_theta = 10000.0;
  layout.model.rope_layout = "half";
  layout.tokens = tokens;
  layout.prompt_length = prompt_length;
  layout.layers = {0, 2, 3};
  layout.sliding_window = {0, 0, 32};
  for (std::int64_t t = 0; t < tokens; ++t) layout.query_positions.push_back(static_cast<std::int32_t>(t));
  for (std::int64_t t = std::max<std::int64_t>(0, prompt_length - 16); t < tokens; ++t)
    layout.attention_positions.push_back(static_cast<std::int32_t>(t));
  layout.tensor_type = ElementType::float32;
  layout.text_bytes = 8 * tokens;
  if (tokens > 4) layout.spans = {{0, 2, "system"}, {2, static_cast<int>(tokens), "context \xc3\xa9"}};
  layout.manifest = R"({"model": "sample", "seed": 7})";
  layout.command = "kvreplay test";
  return layout;
}

// Writes a trace of numbers that its seed, the dataset and the element's place decide.
class TraceMaker {
 public:
  TraceMaker(TraceLayout with, std::uint32_t seed) : layout(std::move(with)), seed_(seed) {}

  TraceLayout layout;

  float value(int layer, LayerDataset which, std::int64_t head, std::int64_t row, std::int64_t column) const {
    std::uint64_t x = seed_ * 0x9e3779b97f4a7c15ULL + static_cast<std::uint64_t>(layer) * 1000003 +
                      static_cast<std::uint64_t>(which) * 7919 + static_cast<std::uint64_t>(head) * 104729 +
                      static_cast<std::uint64_t>(row) * 1299709 + static_cast<std::uint64_t>(column) * 15485863;
    x ^= x >> 31;
    x *= 0xbf58476d1ce4e5b9ULL;
    x ^= x >> 29;
    // Seven bits of mantissa: exact in each of the element types.
    return static_cast<float>(static_cast<std::int64_t>(x % 255) - 127) / 64.0F;
  }
  std::int32_t id(std::int64_t t) const { return static_cast<std::int32_t>((t * 31 + seed_) % 1000); }
  float nll(std::int64_t t) const { return t == 0 ? std::nanf("") : static_cast<float>(t % 97) / 16.0F; }
  static std::string text(std::int64_t t) { return t % 5 == 0 ? "" : "t" + std::to_string(t % 1000); }

  // Rows [first, last) of positions of one dataset, as TraceWriter::append takes them.
  Tensor<float, 3> rows(int layer, LayerDataset which, std::int64_t heads, std::int64_t first, std::int64_t last,
                        std::int64_t columns) const {
    Tensor<float, 3> out({heads, last - first, columns});
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t r = first; r < last; ++r)
        for (std::int64_t c = 0; c < columns; ++c) out(h, r - first, c) = value(layer, which, h, r, c);
    return out;
  }

  static std::int64_t below(const std::vector<std::int32_t>& positions, std::int64_t tokens) {
    return std::lower_bound(positions.begin(), positions.end(), tokens) - positions.begin();
  }

  // Everything of tokens [from, to), then a commit.
  void append_block(TraceWriter& writer, std::int64_t from, std::int64_t to) const {
    const ModelInfo& m = layout.model;
    std::vector<std::int32_t> ids;
    std::vector<float> nlls;
    std::vector<std::string> texts;
    for (auto t = from; t < to; ++t) {
      ids.push_back(id(t));
      nlls.push_back(nll(t));
      texts.push_back(text(t));
    }
    writer.append_tokens(from, ids, nlls, layout.text_bytes >= 0 ? texts : std::vector<std::string>{});
    const std::int64_t q0 = below(layout.query_positions, from), q1 = below(layout.query_positions, to);
    const std::int64_t a0 = below(layout.attention_positions, from), a1 = below(layout.attention_positions, to);
    for (const int layer : layout.layers) {
      using D = LayerDataset;
      writer.append(layer, D::key, rows(layer, D::key, m.num_kv_heads, from, to, m.head_dim));
      writer.append(layer, D::value, rows(layer, D::value, m.num_kv_heads, from, to, m.head_dim));
      writer.append(layer, D::query, rows(layer, D::query, m.num_query_heads, q0, q1, m.head_dim));
      writer.append(layer, D::head_output, rows(layer, D::head_output, m.num_query_heads, q0, q1, m.head_dim));
      if (a1 > a0) writer.append(layer, D::attention, rows(layer, D::attention, m.num_query_heads, a0, a1, layout.tokens));
      const Tensor<float, 3> lse = rows(layer, D::log_sum_exp, m.num_query_heads, q0, q1, 1);
      writer.append(layer, D::log_sum_exp, TensorView<const float, 3>(lse.data(), {1, m.num_query_heads, q1 - q0}));
      if (from == 0)
        writer.write_whole(layer, D::output_projection,
                           rows(layer, D::output_projection, 1, 0, m.hidden_size, m.num_query_heads * m.head_dim));
      if (from < layout.prompt_length && to >= layout.prompt_length)
        writer.write_whole(layer, D::attention_column_sum,
                           rows(layer, D::attention_column_sum, 1, 0, m.num_query_heads, layout.tokens));
    }
    writer.commit(to);
  }

  // Blocks of `block` tokens, cut at the end of the prompt too. tokens < 0: all of the layout.
  void write(const std::string& path, std::int64_t block, std::int64_t tokens = -1) const {
    if (tokens < 0) tokens = layout.tokens;
    TraceWriter writer = TraceWriter::create(path, layout);
    go_on(writer, block, tokens);
    writer.finish(tokens);
  }

  // after_commit: called with the number of tokens after each commit.
  void go_on(TraceWriter& writer, std::int64_t block, std::int64_t tokens,
             const std::function<void(std::int64_t)>& after_commit = {}) const {
    for (std::int64_t from = writer.committed(); from < tokens;) {
      std::int64_t to = std::min(tokens, from + block);
      if (from < layout.prompt_length) to = std::min(to, layout.prompt_length);
      append_block(writer, from, to);
      if (after_commit) after_commit(to);
      from = to;
    }
  }

  // Compares everything below `tokens` with what this maker would have written.
  void expect_equal(const Trace& trace, std::int64_t tokens) const {
    ASSERT_EQ(trace.num_tokens(), tokens);
    ASSERT_EQ(trace.layers(), layout.layers);
    EXPECT_EQ(trace.model().name, layout.model.name);
    EXPECT_EQ(trace.model().attention_scale, layout.model.attention_scale);
    EXPECT_EQ(trace.manifest(), layout.manifest);
    const auto texts = trace.token_texts();
    const auto nlls = trace.nll();
    ASSERT_EQ(texts.size(), layout.text_bytes >= 0 ? static_cast<std::size_t>(tokens) : 0U);
    for (std::int64_t t = 0; t < tokens; ++t) {
      ASSERT_EQ(trace.token_ids()[static_cast<std::size_t>(t)], id(t));
      if (!texts.empty()) {
        ASSERT_EQ(texts[static_cast<std::size_t>(t)], text(t));
      }
      if (t > 0) {
        ASSERT_EQ(nlls[static_cast<std::size_t>(t)], nll(t));
      }
    }
    EXPECT_TRUE(std::isnan(nlls[0]));
    ASSERT_EQ(static_cast<std::int64_t>(trace.query_positions().size()), below(layout.query_positions, tokens));
    for (const int layer : layout.layers)
      for (const auto which : {LayerDataset::key, LayerDataset::value, LayerDataset::query, LayerDataset::output_projection,
                               LayerDataset::attention, LayerDataset::log_sum_exp, LayerDataset::attention_column_sum,
                               LayerDataset::head_output}) {
        if (which == LayerDataset::attention_column_sum && tokens < layout.prompt_length) {
          EXPECT_FALSE(trace.has(layer, which));
          continue;
        }
        expect_tensor(trace, layer, which);
      }
  }

  void expect_tensor(const Trace& trace, int layer, LayerDataset which) const {
    ASSERT_TRUE(trace.has(layer, which)) << layer_dataset_name(which);
    const Tensor<float, 3> read = trace.read(layer, which);
    const bool flat = which == LayerDataset::log_sum_exp;
    for (std::int64_t h = 0; h < read.dim(0); ++h)
      for (std::int64_t r = 0; r < read.dim(1); ++r)
        for (std::int64_t c = 0; c < read.dim(2); ++c)
          ASSERT_EQ(read(h, r, c), flat ? value(layer, which, r, c, 0) : value(layer, which, h, r, c))
              << layer_dataset_name(which) << " of layer " << layer << " at " << h << ", " << r << ", " << c;
  }

 private:
  std::uint32_t seed_;
};

}  // namespace kvreplay::samples
