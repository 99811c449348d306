// Do synthetic traces have the attention that they promise, the same numbers every time, and the size that was told?
#include "core/trace/synthetic.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>

#include "core/base/error.h"
#include "core/base/parallel.h"
#include "tests/unit/small_tokenizers.h"

namespace kvreplay {
namespace {

constexpr std::array<LayerDataset, 8> all_datasets = {
    LayerDataset::key,         LayerDataset::value,       LayerDataset::query,       LayerDataset::output_projection,
    LayerDataset::output_gram, LayerDataset::log_sum_exp, LayerDataset::head_output, LayerDataset::attention_column_sum};

SyntheticParameters small() {
  SyntheticParameters p;
  p.layers = 2;
  p.query_heads = 4;
  p.kv_heads = 2;
  p.head_dim = 32;
  p.prompt = 300;
  p.decode = 20;
  return p;
}

// Large enough that shares of the attention are not those of single tokens.
SyntheticParameters large() {
  SyntheticParameters p;
  p.layers = 4;
  p.query_heads = 8;
  p.kv_heads = 4;
  p.prompt = 4096;
  p.decode = 32;
  p.query_window = 32;
  p.output_projection = SyntheticParameters::OutputProjection::none;
  return p;
}

void expect_same(const Trace& a, const Trace& b) {
  EXPECT_EQ(a.token_ids(), b.token_ids());
  EXPECT_EQ(a.token_texts(), b.token_texts());
  EXPECT_EQ(a.query_positions(), b.query_positions());
  EXPECT_EQ(a.manifest(), b.manifest());
  for (const int layer : a.layers())
    for (const LayerDataset which : all_datasets) {
      ASSERT_EQ(a.has(layer, which), b.has(layer, which)) << layer_dataset_name(which);
      if (!a.has(layer, which)) continue;
      const auto left = a.read(layer, which), right = b.read(layer, which);
      ASSERT_EQ(left.shape(), right.shape());
      EXPECT_TRUE(std::equal(left.flat().begin(), left.flat().end(), right.flat().begin()))
          << "layer " << layer << " " << layer_dataset_name(which);
    }
}

// Attention weights of one recorded query, in float64.
std::vector<double> attention(const Tensor<float, 3>& key, const Tensor<float, 3>& query, std::int64_t head,
                              std::int64_t row, std::int64_t position) {
  const std::int64_t d = key.dim(2), group = query.dim(0) / key.dim(0);
  std::vector<double> weights;
  double sum = 0;
  for (std::int64_t j = 0; j <= position; ++j) {
    double z = 0;
    for (std::int64_t i = 0; i < d; ++i)
      z += static_cast<double>(query(head, row, i)) * static_cast<double>(key(head / group, j, i));
    weights.push_back(std::exp(z / std::sqrt(static_cast<double>(d))));
    sum += weights.back();
  }
  for (double& w : weights) w /= sum;
  return weights;
}

// Mean over layers and chosen heads of the mass that the query at `position` gives to chosen tokens.
double mean_mass(const Trace& trace, std::int64_t position, const std::function<bool(int layer, std::int64_t head)>& heads,
                 const std::function<bool(std::int64_t)>& tokens) {
  const auto& recorded = trace.query_positions();
  const auto row = std::find(recorded.begin(), recorded.end(), static_cast<std::int32_t>(position)) - recorded.begin();
  double sum = 0;
  int count = 0;
  for (const int layer : trace.layers()) {
    const auto key = trace.read(layer, LayerDataset::key), query = trace.read(layer, LayerDataset::query);
    for (std::int64_t head = 0; head < query.dim(0); ++head) {
      if (!heads(layer, head)) continue;
      const auto weights = attention(key, query, head, row, position);
      for (std::int64_t j = 0; j <= position; ++j) sum += tokens(j) ? weights[static_cast<std::size_t>(j)] : 0;
      ++count;
    }
  }
  return sum / count;
}

bool any_head(int, std::int64_t) { return true; }

TEST(SyntheticTraces, AreTheSameInFileAndMemoryAndOnAnyNumberOfThreads) {
  const TemporaryDirectory directory;
  for (const ElementType type : {ElementType::float16, ElementType::float32, ElementType::bfloat16}) {
    SyntheticParameters p = small();
    p.type = type;
    p.query_window = 40;
    p.attention_statistics = true;
    p.seed = 5;
    Job job;
    set_thread_count(1);
    write_synthetic(directory.path() + "/one.h5", p, job);
    set_thread_count(3);
    write_synthetic(directory.path() + "/three.h5", p, job);
    const auto memory = make_synthetic(p);
    set_thread_count(0);
    const auto one = open_trace(directory.path() + "/one.h5"), three = open_trace(directory.path() + "/three.h5");
    expect_same(*one, *three);
    expect_same(*one, *memory);
    EXPECT_EQ(one->num_tokens(), 320);
    EXPECT_EQ(one->prompt_length(), 300);
    EXPECT_EQ(one->query_positions().front(), 260);
    EXPECT_EQ(one->query_positions().size(), 60U);
    EXPECT_TRUE(one->complete());
  }
}

// A sum of 256 products of numbers around 0.1 in float32: 256 times 2^-24 times 0.01, and less.
TEST(SyntheticTraces, HaveTheGramMatricesOfTheProjectionThatTheyWouldHave) {
  const TemporaryDirectory directory;
  SyntheticParameters p = small();
  p.hidden_size = 300;
  const auto projection = make_synthetic(p)->read(1, LayerDataset::output_projection);
  p.output_projection = SyntheticParameters::OutputProjection::gram;
  Job job;
  write_synthetic(directory.path() + "/t.h5", p, job);
  const auto trace = open_trace(directory.path() + "/t.h5");
  expect_same(*trace, *make_synthetic(p));
  EXPECT_FALSE(trace->has(1, LayerDataset::output_projection));
  const auto gram = trace->read(1, LayerDataset::output_gram);
  ASSERT_EQ(gram.shape(), (std::array<std::int64_t, 3>{4, 32, 32}));
  for (std::int64_t head = 0; head < 4; ++head)
    for (std::int64_t i = 0; i < 32; ++i)
      for (std::int64_t j = 0; j < 32; ++j) {
        double sum = 0;
        for (std::int64_t c = 0; c < 300; ++c)
          sum += static_cast<double>(projection(0, c, head * 32 + i)) * static_cast<double>(projection(0, c, head * 32 + j));
        EXPECT_NEAR(static_cast<double>(gram(head, i, j)), sum, 1e-5);
      }
}

TEST(SyntheticTraces, DifferWithTheSeed) {
  SyntheticParameters p = small();
  const auto key = make_synthetic(p)->read(0, LayerDataset::key);
  p.seed = 1;
  const auto other = make_synthetic(p)->read(0, LayerDataset::key);
  EXPECT_FALSE(std::equal(key.flat().begin(), key.flat().end(), other.flat().begin()));
}

TEST(SyntheticTraces, HaveTheSizeThatWasTold) {
  const TemporaryDirectory directory;
  for (const bool statistics : {false, true}) {
    SyntheticParameters p = small();
    p.prompt = 1500;
    p.attention_statistics = statistics;
    Job job;
    write_synthetic(directory.path() + "/t.h5", p, job);
    const auto size = static_cast<double>(std::filesystem::file_size(directory.path() + "/t.h5"));
    EXPECT_NEAR(static_cast<double>(TraceWriter::predicted_size(synthetic_layout(p))), size, 0.02 * size);
  }
}

// Masses vary between heads by a log-normal factor of sigma 0.4 before they are made to add up, and single tokens by one of
// sigma 0.86 (the two noises of the logits): the mean over 32 heads has a relative standard error of about 0.15. Three of
// these are allowed.
TEST(SyntheticAttention, GivesEachPartItsShare) {
  SyntheticParameters p = large();
  p.needle = 0;
  const auto trace = make_synthetic(p);
  const auto texts = trace->token_texts();
  const std::int64_t last = trace->num_tokens() - 1;
  const auto is = [&](const char* kind) {
    return [&texts, kind](std::int64_t j) { return texts[static_cast<std::size_t>(j)].starts_with(kind); };
  };
  EXPECT_NEAR(mean_mass(*trace, last, any_head, is("<sink>")), 0.3, 0.45 * 0.3);
  const double local = mean_mass(*trace, last, any_head, [&](std::int64_t j) { return j > last - 16; });
  EXPECT_NEAR(local, 0.2, 0.45 * 0.2);
  const double heavy = mean_mass(*trace, last, any_head, is(" heavy")) + mean_mass(*trace, last, any_head, is(" copy"));
  EXPECT_NEAR(heavy, 0.15, 0.45 * 0.15);
}

TEST(SyntheticAttention, FindsTheNeedleOnceTheQuestionAsks) {
  const SyntheticParameters p = large();
  const auto trace = make_synthetic(p);
  ASSERT_EQ(trace->spans().size(), 2U);
  const TextSpan needle = trace->spans()[0], question = trace->spans()[1];
  EXPECT_EQ(needle.label, "needle");
  EXPECT_EQ(question.label, "question");
  EXPECT_EQ(question.end, p.prompt);
  EXPECT_EQ(question.end - question.start, p.question);
  EXPECT_NEAR(needle.start, static_cast<double>(p.prompt) / 2, 20);
  EXPECT_EQ(trace->token_texts()[static_cast<std::size_t>(needle.start)], " needle0");

  const auto in_needle = [&](std::int64_t j) { return j >= needle.start && j < needle.end; };
  const auto retrieves = [](int layer, std::int64_t head) { return (layer + head / 2) % 2 == 0; };
  const auto does_not = [&](int layer, std::int64_t head) { return !retrieves(layer, head); };
  for (const std::int64_t position : {p.prompt - 1, p.prompt + p.decode - 1}) {
    EXPECT_NEAR(mean_mass(*trace, position, retrieves, in_needle), p.needle_mass, 0.25);
    EXPECT_NEAR(mean_mass(*trace, position, does_not, in_needle), p.needle_mass / 10, 0.05);
  }
  EXPECT_LT(mean_mass(*trace, question.start - 1, any_head, in_needle), 0.01);
}

TEST(SyntheticAttention, KeepsItsSharesWhenTheTraceIsLong) {
  SyntheticParameters p = large();
  p.layers = 2;
  p.prompt = 40000;
  p.query_window = 0;
  p.decode = 2;
  const auto trace = make_synthetic(p);
  const auto sinks = [&](std::int64_t j) { return j < p.sinks; };
  const auto does_not = [](int layer, std::int64_t head) { return (layer + head / 2) % 2 == 1; };
  EXPECT_NEAR(mean_mass(*trace, p.prompt, does_not, sinks), 0.3, 0.6 * 0.3);  // 8 heads
}

TEST(SyntheticTraces, HaveGroupsOfNearCopies) {
  const auto trace = make_synthetic(large());
  const auto texts = trace->token_texts();
  std::vector<std::int64_t> group, others;
  for (std::int64_t j = 0; j < trace->num_tokens(); ++j) {
    if (texts[static_cast<std::size_t>(j)] == " copy0") group.push_back(j);
    if (texts[static_cast<std::size_t>(j)] == " copy1") others.push_back(j);
  }
  ASSERT_EQ(group.size(), 4U);
  ASSERT_EQ(others.size(), 4U);
  for (const LayerDataset which : {LayerDataset::key, LayerDataset::value}) {
    const auto rows = trace->read(1, which, {1, 2});
    const auto distance = [&](std::int64_t a, std::int64_t b) {
      double sum = 0, norm = 0;
      for (std::int64_t i = 0; i < rows.dim(2); ++i) {
        sum += std::pow(static_cast<double>(rows(0, a, i) - rows(0, b, i)), 2);
        norm += std::pow(static_cast<double>(rows(0, a, i)), 2);
      }
      return std::sqrt(sum / norm);
    };
    for (const std::int64_t member : group) EXPECT_LT(distance(group[0], member), 0.05) << layer_dataset_name(which);
    EXPECT_GT(distance(group[0], others[0]), 0.3) << layer_dataset_name(which);
  }
}

// The float32 sums over 320 keys against float64 ones: 320 times 2^-24 is 2e-5, and exp is good to 2^-22.
TEST(SyntheticStatistics, AreThoseOfTheStoredTensors) {
  SyntheticParameters p = small();
  p.query_window = 10;
  p.attention_statistics = true;
  const auto trace = make_synthetic(p);
  SyntheticParameters all = p;
  all.query_window.reset();
  all.attention_statistics = false;
  const auto with_all_queries = make_synthetic(all);
  const auto key = trace->read(1, LayerDataset::key), value = trace->read(1, LayerDataset::value);
  const auto query = with_all_queries->read(1, LayerDataset::query);
  const auto sums = trace->read(1, LayerDataset::log_sum_exp), columns = trace->read(1, LayerDataset::attention_column_sum),
             output = trace->read(1, LayerDataset::head_output);
  ASSERT_EQ(sums.dim(2), 30);
  for (std::int64_t head = 0; head < 4; ++head) {
    std::vector<double> column(320, 0);
    for (std::int64_t t = 0; t < 320; ++t) {
      const auto weights = attention(key, query, head, t, t);
      if (t < 300)
        for (std::size_t j = 0; j < weights.size(); ++j) column[j] += weights[j];
      if (t < 290) continue;
      double z = 0;
      for (std::int64_t i = 0; i < 32; ++i)
        z += static_cast<double>(query(head, t, i)) * static_cast<double>(key(head / 2, 0, i));
      EXPECT_NEAR(static_cast<double>(sums(0, head, t - 290)), z / std::sqrt(32.0) - std::log(weights[0]), 1e-4);
      for (std::int64_t i = 0; i < 32; ++i) {
        double o = 0;
        for (std::size_t j = 0; j < weights.size(); ++j)
          o += weights[j] * static_cast<double>(value(head / 2, static_cast<std::int64_t>(j), i));
        EXPECT_NEAR(static_cast<double>(output(head, t - 290, i)), o, 1e-4);
      }
    }
    for (std::int64_t j = 0; j < 320; ++j)
      EXPECT_NEAR(static_cast<double>(columns(0, head, j)), column[static_cast<std::size_t>(j)], 1e-4 * (1 + column[0]));
  }
}

TEST(SyntheticTraces, HaveWhatWasAskedForOnly) {
  SyntheticParameters p = small();
  p.needle = 0;
  p.copy_groups = 0;
  p.sinks = 0;
  p.heavy_share = 0;
  p.output_projection = SyntheticParameters::OutputProjection::none;
  p.decode = 0;
  const auto trace = make_synthetic(p);
  EXPECT_TRUE(trace->spans().empty());
  EXPECT_FALSE(trace->has(0, LayerDataset::output_projection));
  EXPECT_FALSE(trace->has(0, LayerDataset::log_sum_exp));
  EXPECT_EQ(trace->num_decode_steps(), 0);
  for (const std::string& text : trace->token_texts()) EXPECT_TRUE(text.starts_with(" topic")) << text;
}

TEST(SyntheticTraces, ExistForTheSmallestShapes) {
  SyntheticParameters p;
  p.layers = p.query_heads = p.kv_heads = 1;
  p.head_dim = 8;
  p.prompt = 1;
  p.decode = 1;
  p.needle = p.sinks = 0;
  EXPECT_EQ(make_synthetic(p)->num_tokens(), 2);
  p.prompt = 3;
  p.needle = p.question = p.sinks = 1;
  EXPECT_EQ(make_synthetic(p)->num_tokens(), 4);
}

struct BadParameter {
  const char* name;
  void (*change)(SyntheticParameters&);
};
void PrintTo(const BadParameter& bad, std::ostream* out) { *out << bad.name; }

class SyntheticErrors : public testing::TestWithParam<BadParameter> {};

TEST_P(SyntheticErrors, NameTheParameter) {
  SyntheticParameters p = small();
  check(p);
  GetParam().change(p);
  try {
    check(p);
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(std::string("--") + GetParam().name + ":"), std::string::npos) << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(
    OfValuesOutOfRange, SyntheticErrors,
    testing::Values(BadParameter{"layers", [](SyntheticParameters& p) { p.layers = 0; }},
                    BadParameter{"query-heads", [](SyntheticParameters& p) { p.query_heads = 3; }},
                    BadParameter{"kv-heads", [](SyntheticParameters& p) { p.kv_heads = 0; }},
                    BadParameter{"head-dim", [](SyntheticParameters& p) { p.head_dim = 9; }},
                    BadParameter{"prompt", [](SyntheticParameters& p) { p.prompt = 0; }},
                    BadParameter{"decode", [](SyntheticParameters& p) { p.decode = -1; }},
                    BadParameter{"queries", [](SyntheticParameters& p) { p.query_window = -1; }},
                    BadParameter{"sink-mass", [](SyntheticParameters& p) { p.sink_mass = std::nan(""); }},
                    BadParameter{"sink-mass", [](SyntheticParameters& p) { p.sink_mass = p.local_mass = 0.6; }},
                    BadParameter{"sinks", [](SyntheticParameters& p) { p.sinks = 301; }},
                    BadParameter{"topics", [](SyntheticParameters& p) { p.topics = 2; }},
                    BadParameter{"needle", [](SyntheticParameters& p) { p.needle = 281; }},
                    BadParameter{"needle-depth", [](SyntheticParameters& p) { p.needle_depth = 1.5; }},
                    BadParameter{"needle-mass", [](SyntheticParameters& p) { p.needle_mass = 1; }},
                    BadParameter{"copies", [](SyntheticParameters& p) { p.copies = 0; }}));

}  // namespace
}  // namespace kvreplay
