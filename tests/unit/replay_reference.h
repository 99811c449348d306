// A replay of one layer in float64, written from the definitions alone and sharing no code with the product: plain loops
// over the formulas of data/metrics.md. What the fast backend is checked against.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "core/base/error.h"
#include "core/trace/memory_trace.h"

namespace kvreplay::reference {

// A random trace. sharpness scales the logits: 1 is diffuse attention, 8 nearly one-hot.
struct Shape {
  int layers = 1, query_heads = 4, kv_heads = 2, head_dim = 8, hidden = 24;
  int prompt = 60, steps = 6;
  double sharpness = 2;
  int sliding_window = 0;
  double softcap = 0;
  unsigned seed = 1;
};

inline Tensor<float, 3> random_tensor(std::mt19937& random, std::int64_t a, std::int64_t b, std::int64_t c, double scale) {
  std::normal_distribution<float> normal;
  Tensor<float, 3> t({a, b, c});
  for (float& x : t.flat()) x = static_cast<float>(scale) * normal(random);
  return t;
}

// A second pass that repeats the prompt after its first 3 tokens in chunks of 40; requests of 2 tokens.
inline void add_repeat_pass(MemoryTraceContents& contents, const Shape& shape) {
  std::mt19937 random(shape.seed + 1000);
  int rows = 0;
  std::string chunks;
  for (int begin = 3; begin < shape.prompt; begin += 40) {
    const int end = std::min(begin + 40, shape.prompt), read = end - begin + 2;
    chunks += (rows > 0 ? ",[" : "[") + std::to_string(begin) + "," + std::to_string(end) + "," + std::to_string(read) + "]";
    rows += read;
  }
  contents.extension_texts[{"/repeat_pass", "layout"}] =
      R"({"context_begin": 3, "context_end": )" + std::to_string(shape.prompt) + R"(, "chunks": [)" + chunks + "]}";
  for (int l = 0; l < shape.layers; ++l) {
    const std::string node = "/repeat_pass/00" + std::to_string(l);
    contents.extensions[node + "/query"] = random_tensor(random, shape.query_heads, rows, shape.head_dim, 1);
    contents.extensions[node + "/key"] = random_tensor(random, shape.kv_heads, rows, shape.head_dim, shape.sharpness);
  }
}

inline MemoryTraceContents random_contents(const Shape& shape) {
  std::mt19937 random(shape.seed);
  MemoryTraceContents contents;
  ModelInfo& model = contents.model;
  model.name = "random";
  model.architecture = "random";
  model.num_layers = shape.layers;
  model.num_query_heads = shape.query_heads;
  model.num_kv_heads = shape.kv_heads;
  model.head_dim = shape.head_dim;
  model.hidden_size = shape.hidden;
  model.attention_scale = 1 / std::sqrt(shape.head_dim);
  model.rope_theta = 10000;
  model.rope_layout = "half";
  if (shape.softcap > 0) model.logit_softcap = shape.softcap;
  const int tokens = shape.prompt + shape.steps;
  contents.prompt_length = shape.prompt;
  for (int t = 0; t < tokens; ++t) {
    contents.token_ids.push_back(t % 7);
    contents.query_positions.push_back(t);
  }
  for (int l = 0; l < shape.layers; ++l) {
    contents.layers.push_back(l);
    contents.sliding_window.push_back(shape.sliding_window);
    contents.tensors[{l, LayerDataset::key}] =
        random_tensor(random, shape.kv_heads, tokens, shape.head_dim, shape.sharpness);
    contents.tensors[{l, LayerDataset::value}] = random_tensor(random, shape.kv_heads, tokens, shape.head_dim, 1);
    contents.tensors[{l, LayerDataset::query}] = random_tensor(random, shape.query_heads, tokens, shape.head_dim, 1);
    contents.tensors[{l, LayerDataset::output_projection}] =
        random_tensor(random, 1, shape.hidden, shape.query_heads * shape.head_dim, 0.3);
  }
  add_repeat_pass(contents, shape);
  return contents;
}

// One layer of a trace in float64, with the attention of any query.
struct Layer {
  const MemoryTraceContents& trace;
  int index = 0;

  int group() const { return trace.model.num_query_heads / trace.model.num_kv_heads; }
  double k(int h, int t, int i) const { return trace.tensors.at({index, LayerDataset::key})(h / group(), t, i); }
  double v(int h, int t, int i) const { return trace.tensors.at({index, LayerDataset::value})(h / group(), t, i); }
  double q(int h, int t, int i) const { return trace.tensors.at({index, LayerDataset::query})(h, t, i); }
  double wo(int c, int h, int i) const {
    return trace.tensors.at({index, LayerDataset::output_projection})(0, c, h * trace.model.head_dim + i);
  }
  int low(int t) const {
    const int window = trace.sliding_window.empty() ? 0 : trace.sliding_window[static_cast<std::size_t>(index)];
    return window > 0 ? std::max(0, t - window + 1) : 0;
  }
  double logit(int h, int t, int j) const {
    double z = 0;
    for (int i = 0; i < trace.model.head_dim; ++i) z += q(h, t, i) * k(h, j, i);
    z *= trace.model.attention_scale;
    if (trace.model.logit_softcap) z = *trace.model.logit_softcap * std::tanh(z / *trace.model.logit_softcap);
    return z;
  }
  // Softmax over `set` of the query at t; [T], 0 outside. Also the log-sum-exp.
  std::vector<double> attention(int h, int t, const std::set<int>& set, double* log_sum_exp = nullptr) const {
    std::vector<double> a(trace.token_ids.size(), 0.0);
    double top = -1e300, total = 0;
    for (const int j : set) top = std::max(top, logit(h, t, j));
    for (const int j : set) total += a[static_cast<std::size_t>(j)] = std::exp(logit(h, t, j) - top);
    for (double& x : a) x /= total;
    if (log_sum_exp != nullptr) *log_sum_exp = top + std::log(total);
    return a;
  }
  std::set<int> visible(int t) const {
    std::set<int> set;
    for (int j = low(t); j <= t; ++j) set.insert(j);
    return set;
  }
  std::vector<double> output(int h, const std::vector<double>& a) const {
    std::vector<double> o(static_cast<std::size_t>(trace.model.head_dim), 0.0);
    for (std::size_t j = 0; j < a.size(); ++j)
      if (a[j] != 0)
        for (std::size_t i = 0; i < o.size(); ++i) o[i] += a[j] * v(h, static_cast<int>(j), static_cast<int>(i));
    return o;
  }
  std::vector<double> projected(int h, const std::vector<double>& x) const {
    std::vector<double> out(static_cast<std::size_t>(trace.model.hidden_size), 0.0);
    for (std::size_t c = 0; c < out.size(); ++c)
      for (std::size_t i = 0; i < x.size(); ++i) out[c] += wo(static_cast<int>(c), h, static_cast<int>(i)) * x[i];
    return out;
  }
};

// What an action that must fail says; empty when it does not.
template <class Action>
std::string refusal_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

inline double norm(const std::vector<double>& x) {
  double total = 0;
  for (const double e : x) total += e * e;
  return std::sqrt(total);
}

inline std::vector<double> difference(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> out(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) out[i] = a[i] - b[i];
  return out;
}

// The `count` largest of the first `end` scores, ties to the lowest position.
inline std::set<int> top(const std::vector<double>& score, int end, int count) {
  std::vector<int> order(static_cast<std::size_t>(end));
  for (int i = 0; i < end; ++i) order[static_cast<std::size_t>(i)] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return score[static_cast<std::size_t>(a)] > score[static_cast<std::size_t>(b)]; });
  return {order.begin(), order.begin() + count};
}

}  // namespace kvreplay::reference
