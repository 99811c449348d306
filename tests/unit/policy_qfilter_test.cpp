// Query filters: their derivation against a power iteration, the policy against plain loops, and the file.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "core/base/error.h"
#include "core/policy/query_filters.h"
#include "tests/unit/policy_reference.h"

namespace kvreplay {
namespace {

using reference::evict;
using reference::kept_once;
using reference::Layer;
using reference::Rows;
using reference::Shape;
using reference::shape_of;
using reference::Vector;

// First right singular vector of queries [0, end) of a head by power iteration, turned against most of them; group mean.
Vector filter_of(const Layer& layer, int g, int end) {
  const auto d = static_cast<std::size_t>(layer.trace.model.head_dim);
  Vector mean(d, 0.0);
  for (int h = g * layer.group(); h < (g + 1) * layer.group(); ++h) {
    const auto along = [&](int t, const Vector& v) {
      double dot = 0;
      for (std::size_t i = 0; i < d; ++i) dot += layer.q(h, t, static_cast<int>(i)) * v[i];
      return dot;
    };
    Vector v(d, 1.0);
    for (int round = 0; round < 4000; ++round) {
      Vector next(d, 0.0);
      for (int t = 0; t < end; ++t)
        for (std::size_t i = 0; i < d; ++i) next[i] += along(t, v) * layer.q(h, t, static_cast<int>(i));
      const double length = reference::norm(next);
      for (std::size_t i = 0; i < d; ++i) v[i] = next[i] / length;
    }
    int positive = 0;
    for (int t = 0; t < end; ++t) positive += along(t, v) > 0 ? 1 : 0;
    for (std::size_t i = 0; i < d; ++i) mean[i] += (2 * positive > end ? -v[i] : v[i]) / layer.group();
  }
  return mean;
}

Vector filter_scores_of(const Layer& layer, int g, int end) {
  const Vector filter = filter_of(layer, g, end);
  Vector score(layer.trace.token_ids.size(), 0.0);
  for (std::size_t t = 0; t < score.size(); ++t)
    for (std::size_t i = 0; i < filter.size(); ++i)
      score[t] -= filter[i] * layer.k(g * layer.group(), static_cast<int>(t), static_cast<int>(i));
  return score;
}

// Queries that share a direction, as those of real models do.
MemoryTraceContents leaning_contents(const Shape& shape) {
  auto contents = reference::random_contents(shape);
  for (auto& [name, tensor] : contents.tensors)
    if (name.second == LayerDataset::query)
      for (int h = 0; h < tensor.dim(0); ++h)
        for (int t = 0; t < tensor.dim(1); ++t)
          for (int i = 0; i < tensor.dim(2); ++i) tensor(h, t, i) += static_cast<float>((h + i) % 3) - 0.7F;
  return contents;
}

TEST(PolicyReference, QFilter) {
  const Shape shape = shape_of(40);
  const auto contents = leaning_contents(shape);
  const Layer layer{contents};
  Rows once, each_step;
  for (int g = 0; g < shape.kv_heads; ++g) {
    const Vector score = filter_scores_of(layer, g, shape.prompt);
    once.push_back(kept_once(shape, reference::top(score, shape.prompt, 20)));
    each_step.push_back(reference::simulate(shape, [&](int, const std::set<int>& cached) {
      std::set<int> kept;
      Vector others(score.size(), -1e9);
      for (const int t : cached) others[static_cast<std::size_t>(t)] = score[static_cast<std::size_t>(t)];
      for (auto it = cached.rbegin(); kept.size() < 6; ++it) {
        kept.insert(*it);
        others[static_cast<std::size_t>(*it)] = -1e9;
      }
      kept.merge(reference::top(others, static_cast<int>(others.size()), 14));
      return kept;
    }));
  }
  EXPECT_EQ(evict(contents, "qfilter", 20), once);
  EXPECT_EQ(evict(contents, "qfilter@original:recent=6", 20), each_step);
}

class QueryFiltersFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "filtersXXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    path_ = folder_ + "/filters.json";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string refusal() const {
    return reference::refusal_of([&] { read_query_filters(path_); });
  }
  void write(const std::string& text) const { std::ofstream(path_) << text; }

  std::string folder_, path_;
  Job job_;
};

TEST_F(QueryFiltersFile, HoldsWhatWasDerivedAndThePolicyReadsIt) {
  Shape shape = shape_of(41);
  const auto contents = leaning_contents(shape), other = leaning_contents(shape_of(42));
  const auto a = make_memory_trace(contents), b = make_memory_trace(other);
  const QueryFilters filters = derive_query_filters({a.get(), b.get()}, 60, 1, job_);
  write_query_filters(path_, filters);
  const QueryFilters again = read_query_filters(path_);
  ASSERT_EQ(again.layers.size(), 2U);
  for (int layer = 0; layer < 2; ++layer) {
    const auto& wanted = filters.layers.at(layer);
    const auto& got = again.layers.at(layer);
    EXPECT_TRUE(std::equal(wanted.flat().begin(), wanted.flat().end(), got.flat().begin(), got.flat().end()));
  }
  const auto repeated = derive_query_filters({a.get(), b.get()}, 60, 1, job_);
  const auto otherwise = derive_query_filters({a.get(), b.get()}, 60, 2, job_);
  const auto first = filters.layers.at(0).flat();
  EXPECT_TRUE(std::equal(first.begin(), first.end(), repeated.layers.at(0).flat().begin()));
  EXPECT_FALSE(std::equal(first.begin(), first.end(), otherwise.layers.at(0).flat().begin()));
  EXPECT_EQ(evict(contents, "qfilter:filters=" + path_, 20).size(), 2U);

  shape.head_dim = 4;
  try {
    evict(reference::random_contents(shape), "qfilter:filters=" + path_, 20);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("filters for 2 KV heads of 8 elements"), std::string::npos) << error.what();
  }
}

// With a sample of everything, the filters of one trace are those that the prompt alone gives.
TEST_F(QueryFiltersFile, AllQueriesOfOneTextAreTheReference) {
  Shape shape = shape_of(43);
  shape.steps = 0;
  const auto contents = leaning_contents(shape);
  const auto trace = make_memory_trace(contents);
  const auto filters = derive_query_filters({trace.get()}, 3000, 0, job_);
  for (int g = 0; g < shape.kv_heads; ++g) {
    const Vector wanted = filter_of(Layer{contents}, g, shape.prompt);
    for (std::size_t i = 0; i < wanted.size(); ++i)
      EXPECT_NEAR(filters.layers.at(0)(g, static_cast<int>(i)), wanted[i], 1e-6);  // stored as float32
  }
}

TEST_F(QueryFiltersFile, IsRefusedWhenItIsNoSuchFile) {
  EXPECT_NE(refusal().find("cannot be read; `kvreplay filters"), std::string::npos) << refusal();
  const std::string head = R"({"format": "kvreplay-query-filters", "version": 1, "num_kv_heads": 1, "head_dim": 2)";
  write(head + R"(, "layers": {"0": [[1, 2]]}})");
  EXPECT_EQ(refusal(), "");
  for (const std::string& wrong :
       {std::string("no JSON"), std::string("{}"), std::string(R"({"format": 3})"), head + "}",
        head + R"(, "layers": {"x": 1}})", head + R"(, "layers": {"0": [[1]]}})", head + R"(, "layers": {"0": [[1, "a"]]}})",
        head + R"(, "layers": {"0": 7}})", std::string(R"({"format": "kvreplay-query-filters", "version": 2})")}) {
    write(wrong);
    EXPECT_NE(refusal().find(path_), std::string::npos) << wrong;
  }
}

TEST(QueryFilters, TracesOfDifferentModelsAreRefused) {
  Shape shape = shape_of(44);
  auto other = reference::random_contents(shape);
  other.model.weights_sha256 = std::string(64, 'a');
  const auto a = make_memory_trace(reference::random_contents(shape)), b = make_memory_trace(other);
  Job job;
  EXPECT_THROW(derive_query_filters({a.get(), b.get()}, 10, 0, job), Error);
  EXPECT_THROW(derive_query_filters({}, 10, 0, job), Error);
}

TEST(QFilter, SaysWhichFileIsMissing) {
  try {
    parse_policy("qfilter:filters=/nowhere/filters.json");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("/nowhere/filters.json: cannot be read; `kvreplay filters"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace kvreplay
