// Do the policies that work before RoPE keep what their definitions say? Plain float64 references.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/policy_reference.h"

namespace kvreplay {
namespace {

using reference::evict;
using reference::kept_once;
using reference::Layer;
using reference::row_of;
using reference::Rows;
using reference::Shape;
using reference::shape_of;
using reference::Vector;

using Matrix = std::vector<Vector>;

// Turns by `angle_of_position` · position in the half layout, theta 10000.
Vector turned(Vector x, double position) {
  const std::size_t half = x.size() / 2;
  for (std::size_t p = 0; p < half; ++p) {
    const double angle = position * std::pow(10000.0, -static_cast<double>(2 * p) / static_cast<double>(x.size()));
    const double a = x[p], b = x[p + half];
    x[p] = a * std::cos(angle) - b * std::sin(angle);
    x[p + half] = b * std::cos(angle) + a * std::sin(angle);
  }
  return x;
}

double dot(const Vector& a, const Vector& b) {
  double total = 0;
  for (std::size_t i = 0; i < a.size(); ++i) total += a[i] * b[i];
  return total;
}

void standardize_all(Matrix& scores) {
  double mean = 0, squared = 0, count = 0;
  for (const auto& row : scores)
    for (const double x : row) mean += x, count += 1;
  mean /= count;
  for (const auto& row : scores)
    for (const double x : row) squared += (x - mean) * (x - mean);
  for (auto& row : scores)
    for (double& x : row) x = (x - mean) / std::sqrt(squared / (count - 1));
}

// log E exp(scale · q·k) for q normal with the moments of queries ns ..., turned to one of `future` positions at a time and
// those averaged: the mean as sums of turned queries, the variance as a sum over queries.
Vector expected_attention_of(const Layer& layer, int h, int sinks, int future, bool covariance) {
  const auto& queries = layer.trace.tensors.at({0, LayerDataset::query});
  const int prompt = static_cast<int>(layer.trace.prompt_length), d = layer.trace.model.head_dim;
  Matrix ahead;  // every query, averaged over the positions to come
  for (int t = sinks; t < prompt; ++t) {
    ahead.emplace_back(static_cast<std::size_t>(d), 0.0);
    for (int f = 0; f < future; ++f) {
      const Vector x = turned(row_of(queries, h, t), prompt + f - t);
      for (std::size_t i = 0; i < x.size(); ++i) ahead.back()[i] += x[i] / future;
    }
  }
  Vector weight;
  double total = 0;
  for (int j = sinks; j < prompt; ++j) {
    const Vector key = row_of(layer.trace.tensors.at({0, LayerDataset::key}), h / layer.group(), j);
    double mean = 0, squared = 0;
    const double count = static_cast<double>(ahead.size()), scale = layer.trace.model.attention_scale;
    for (const auto& q : ahead) mean += scale * dot(q, key) / count;
    for (const auto& q : ahead) squared += std::pow(scale * dot(q, key) - mean, 2) / count;
    weight.push_back(std::exp(mean + (covariance ? squared / 2 : 0)));
    total += weight.back();
  }
  for (double& w : weight) w /= total;
  return weight;
}

TEST(PolicyReference, ExpectedAttention) {
  const Shape shape = shape_of(30);
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  for (const bool covariance : {false, true}) {
    for (const bool norm : {false, true}) {
      Rows want;
      for (int g = 0; g < shape.kv_heads; ++g) {
        Vector score(static_cast<std::size_t>(shape.prompt), 1e9);  // sinks
        for (int t = 3; t < shape.prompt; ++t) score[static_cast<std::size_t>(t)] = 0;
        for (int h = g * layer.group(); h < (g + 1) * layer.group(); ++h) {
          const Vector a = expected_attention_of(layer, h, 3, 16, covariance);
          for (std::size_t j = 0; j < a.size(); ++j) score[j + 3] += a[j] / layer.group();
        }
        for (int t = 3; norm && t < shape.prompt; ++t)
          (score[static_cast<std::size_t>(t)] += 0.01) *=
              reference::norm(row_of(contents.tensors.at({0, LayerDataset::value}), g, t));
        want.push_back(kept_once(shape, reference::top(score, shape.prompt, 25)));
      }
      const std::string policy = std::string("expected_attention:future=16,sinks=3,covariance=") +
                                 (covariance ? "true" : "false") + ",vnorm=" + (norm ? "true,epsilon=0.01" : "false");
      EXPECT_EQ(evict(contents, policy, 25), want) << policy;
    }
  }
}

// y (YᵀY + 0.01 I)⁻¹ yᵀ by elimination, for keys [begin, end) of one head.
Vector leverages_of(const MemoryTraceContents& contents, const Tensor<float, 3>& sketch, int h, int begin, int end) {
  const auto k = static_cast<std::size_t>(sketch.dim(2)), n = static_cast<std::size_t>(end - begin);
  Matrix keys, y(n, Vector(k, 0.0)), a(k, Vector(k, 0.0));
  Vector mean(static_cast<std::size_t>(sketch.dim(1)), 0.0), out;
  for (int t = begin; t < end; ++t) {
    keys.push_back(turned(row_of(contents.tensors.at({0, LayerDataset::key}), h, t), -t));
    for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += keys.back()[i] / static_cast<double>(n);
  }
  for (std::size_t t = 0; t < n; ++t)
    for (std::size_t i = 0; i < mean.size(); ++i)
      for (std::size_t c = 0; c < k; ++c)
        y[t][c] += (keys[t][i] - mean[i]) * sketch(h, static_cast<int>(i), static_cast<int>(c));
  for (std::size_t r = 0; r < k; ++r)
    for (std::size_t c = 0; c < k; ++c) {
      a[r][c] = r == c ? 0.01 : 0;
      for (const auto& row : y) a[r][c] += row[r] * row[c];
    }
  for (const auto& row : y) {
    Matrix m = a;
    Vector x = row;
    for (std::size_t p = 0; p < k; ++p)
      for (std::size_t r = 0; r < k; ++r) {
        const double f = m[r][p] / m[p][p];
        if (r == p) continue;
        for (std::size_t c = 0; c < k; ++c) m[r][c] -= f * m[p][c];
        x[r] -= f * x[p];
      }
    double leverage = 0;
    for (std::size_t p = 0; p < k; ++p) leverage += row[p] * x[p] / m[p][p];
    out.push_back(leverage);
  }
  return out;
}

// A trace that records the matrix which published code drew for `policy`.
Tensor<float, 3> record_sketch(MemoryTraceContents& contents, const Shape& shape, const std::string& policy, int columns) {
  std::mt19937 random(77);
  const auto sketch = reference::random_tensor(random, shape.kv_heads, shape.head_dim, columns, 0.4);
  contents.extensions["/expected/a_case/000/sketch"] = sketch;
  contents.extension_texts[{"/expected/a_case", "policy"}] = policy;
  contents.extension_texts[{"/expected/another", "policy"}] = "of_another_version@kvpress:sketch=6";
  return sketch;
}

TEST(PolicyReference, Leverage) {
  const Shape shape = shape_of(31);
  auto contents = reference::random_contents(shape);
  const std::string policy = "leverage@kvpress:sketch=6";
  const auto own = evict(contents, policy, 30);
  const auto sketch = record_sketch(contents, shape, policy, 6);
  Rows want;
  for (int h = 0; h < shape.kv_heads; ++h)  // standardizing changes no order
    want.push_back(kept_once(shape, reference::top(leverages_of(contents, sketch, h, 0, shape.prompt), shape.prompt, 30)));
  EXPECT_EQ(evict(contents, policy, 30), want);
  EXPECT_NE(own, want);
  EXPECT_EQ(evict(contents, policy + ",seed=1", 30), evict(reference::random_contents(shape), policy + ",seed=1", 30))
      << "another seed is another policy, and has nothing recorded";
  EXPECT_NE(evict(contents, policy + ",seed=1", 30), evict(contents, policy + ",seed=2", 30));
}

// Softmax of every query over all keys of its chunk, in arrays filled up with zeros and logits of -1e-9.
Vector chunk_attention_of(const Layer& layer, int h, int begin, int end, int chunk) {
  Vector sums(static_cast<std::size_t>(end - begin), 0.0);
  const int d = layer.trace.model.head_dim;
  for (int first = begin; first < end; first += chunk)
    for (int i = first; i < first + chunk; ++i) {
      Vector logits(static_cast<std::size_t>(chunk), -1e-9);
      double total = 0;
      for (int j = first; j < std::min(first + chunk, end); ++j) {
        double& logit = logits[static_cast<std::size_t>(j - first)] = 0;
        for (int c = 0; i < end && c < d; ++c) logit += layer.q(h, i, c) * layer.k(h, j, c);
      }
      for (const double x : logits) total += std::exp(x);
      for (int j = first; j < std::min(first + chunk, end); ++j)
        sums[static_cast<std::size_t>(j - begin)] += std::exp(logits[static_cast<std::size_t>(j - first)]) / total;
    }
  return sums;
}

Rows compactor_of(const MemoryTraceContents& contents, const Tensor<float, 3>& sketch, const Shape& shape, int chunk,
                  double blending, int budget) {
  const Layer layer{contents};
  Matrix leverage, attention;
  for (int g = 0; g < shape.kv_heads; ++g) {
    leverage.push_back(leverages_of(contents, sketch, g, 5, shape.prompt - 2));
    Vector sums(leverage.back().size(), 0.0), pooled(sums);
    for (int h = g * layer.group(); h < (g + 1) * layer.group(); ++h) {
      const Vector a = chunk_attention_of(layer, h, 5, shape.prompt - 2, chunk);
      for (std::size_t j = 0; j < a.size(); ++j) sums[j] += a[j] / layer.group();
    }
    for (std::size_t j = 0; j < sums.size(); ++j)
      sums[j] *= reference::norm(row_of(contents.tensors.at({0, LayerDataset::value}), g, static_cast<int>(j) + 5));
    for (std::size_t j = 0; j < sums.size(); ++j)
      pooled[j] = ((j > 0 ? sums[j - 1] : 0) + sums[j] + (j + 1 < sums.size() ? sums[j + 1] : 0)) / 3;
    attention.push_back(pooled);
  }
  standardize_all(leverage);
  standardize_all(attention);
  double best = -1e9;
  Rows want;
  for (std::size_t g = 0; g < attention.size(); ++g)
    for (std::size_t j = 0; j < attention[g].size(); ++j)
      best = std::max(best, attention[g][j] += blending * leverage[g][j]);
  for (const auto& row : attention) {
    Vector score(static_cast<std::size_t>(shape.prompt), best);  // the ends tie with the best token
    std::copy(row.begin(), row.end(), score.begin() + 5);
    want.push_back(kept_once(shape, reference::top(score, shape.prompt, budget)));
  }
  return want;
}

// 83 tokens are scored: five chunks of 16 and one of 3, or one chunk that is longer than the prompt.
TEST(PolicyReference, Compactor) {
  Shape shape = shape_of(32);
  shape.sharpness = 1;
  for (const int kv_heads : {2, 1}) {
    shape.kv_heads = kv_heads;
    auto contents = reference::random_contents(shape);
    for (const int chunk : {16, 128}) {
      const std::string policy = "compactor:sinks_start=5,sinks_end=2,sketch=6,chunk=" + std::to_string(chunk);
      const auto sketch = record_sketch(contents, shape, policy, 6);
      EXPECT_EQ(evict(contents, policy, 36), compactor_of(contents, sketch, shape, chunk, 1 - 36.0 / 90, 36)) << chunk;
      record_sketch(contents, shape, policy + ",blending=0.25", 6);
      EXPECT_EQ(evict(contents, policy + ",blending=0.25", 36), compactor_of(contents, sketch, shape, chunk, 0.25, 36));
    }
  }
}

TEST(Compactor, TakesANumberOrTheRatioForBlending) {
  EXPECT_NO_THROW(parse_policy("compactor:blending=0.35"));
  EXPECT_NO_THROW(parse_policy("compactor:blending=ratio"));
  for (const char* wrong : {"some", "-1", "1e9", "0.3x"})
    EXPECT_ANY_THROW(parse_policy(std::string("compactor:blending=") + wrong)) << wrong;
}

}  // namespace
}  // namespace kvreplay
