#include "core/policy/conformance.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/base/error.h"
#include "core/policy/layer_workspace.h"
#include "core/policy/stages/counter_random.h"
#include "core/trace/memory_trace.h"

namespace kvreplay {
namespace {

constexpr int layers = 3, prompt = 96, steps = 8;
constexpr int query_heads = 4, kv_heads = 2, head_dim = 8, hidden_size = 24;
constexpr int sliding_window = 64;

// Each number depends on its own place alone, so a shorter sequence is the beginning of a longer one.
Tensor<float, 3> random_tensor(std::uint64_t seed, std::int64_t heads, std::int64_t rows, std::int64_t columns,
                               double scale) {
  Tensor<float, 3> out({heads, rows, columns});
  for (std::int64_t h = 0; h < heads; ++h)
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < columns; ++c) {
        std::uint64_t state = mix(mix(mix(seed ^ static_cast<std::uint64_t>(h)) ^ static_cast<std::uint64_t>(r)) ^
                                  static_cast<std::uint64_t>(c));
        double sum = 0;  // of four uniform numbers: normal enough, and the same on every machine
        for (int i = 0; i < 4; ++i) sum += static_cast<double>((state = mix(state)) >> 11) * 0x1p-53 - 0.5;
        out(h, r, c) = static_cast<float>(sum * std::sqrt(3.0) * scale);
      }
  return out;
}

std::unique_ptr<Trace> random_trace(std::uint64_t seed, int decode_steps = steps, int window = 0) {
  MemoryTraceContents contents;
  ModelInfo& model = contents.model;
  model.name = model.architecture = "random";
  model.num_layers = layers;
  model.num_query_heads = query_heads;
  model.num_kv_heads = kv_heads;
  model.head_dim = head_dim;
  model.hidden_size = hidden_size;
  model.attention_scale = 1 / std::sqrt(head_dim);
  model.rope_theta = 10000;
  model.rope_layout = "half";
  contents.prompt_length = prompt;
  const std::int64_t tokens = prompt + decode_steps;
  for (int t = 0; t < tokens; ++t) contents.token_ids.push_back(t % 11), contents.query_positions.push_back(t);
  contents.sliding_window.assign(layers, window);
  for (int layer = 0; layer < layers; ++layer) {
    contents.layers.push_back(layer);
    const auto drawn = [&](LayerDataset which, std::int64_t heads, std::int64_t rows, std::int64_t columns, double scale) {
      contents.tensors[{layer, which}] =
          random_tensor(mix(seed * 64 + static_cast<std::uint64_t>(layer) * 8 + static_cast<std::uint64_t>(which)), heads,
                        rows, columns, scale);
    };
    drawn(LayerDataset::key, kv_heads, tokens, head_dim, 2);
    drawn(LayerDataset::value, kv_heads, tokens, head_dim, 1);
    drawn(LayerDataset::query, query_heads, tokens, head_dim, 1);
    drawn(LayerDataset::output_projection, 1, hidden_size, query_heads * head_dim, 0.3);
  }
  return make_memory_trace(std::move(contents));
}

using Evicted = std::vector<Tensor<std::int32_t, 2>>;  // by layer

class Rules {
 public:
  Rules(const PolicySpec& spec, const ConformanceOptions& options)
      : spec_(spec), options_(options), policy_(make_policy(spec)), backend_(make_cpu_backend()) {}

  std::vector<std::string> broken() {
    rule("string", [&] { string(); });
    rule("shape", [&] { shape(); });
    rule("budget", [&] { budget(); });
    rule("everything", [&] { everything(); });
    rule("memory", [&] { memory(); });
    rule("foresight", [&] { foresight(); });
    rule("window", [&] { window(); });
    return std::move(broken_);
  }

 private:
  void rule(const char* name, const std::function<void()>& check) {
    name_ = name;
    try {
      check();
    } catch (const Error& error) {
      fails(std::string("it throws: ") + error.what());
    }
  }
  void fails(const std::string& what) { broken_.push_back(spec_.label() + " breaks the rule \"" + name_ + "\": " + what); }

  Evicted evict(const Trace& trace, std::int64_t tokens) {
    Evicted all;
    for (const int layer : trace.layers()) {
      LayerWorkspace workspace(trace, layer, *backend_);
      all.push_back(policy_->evict(workspace, tokens).evicted_at);
    }
    return all;
  }

  static bool same(const Evicted& a, const Evicted& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
      return x.shape() == y.shape() && std::equal(x.flat().begin(), x.flat().end(), y.flat().begin());
    });
  }

  void string() {
    const auto& all = policy_registry();
    if (std::find(all.begin(), all.end(), spec_.description) == all.end()) return;
    for (const std::string& text : {spec_.text(), spec_.label()})
      if (parse_policy(text).text() != spec_.text()) fails("\"" + text + "\" makes " + parse_policy(text).text());
  }

  void shape() {
    const auto trace = random_trace(1);
    const std::int64_t heads = granularity_heads(policy_->granularity(), trace->model());
    for (const auto& rows : evict(*trace, options_.budget)) {
      if (rows.dim(0) != heads || rows.dim(1) != prompt + steps)
        return fails("evicted_at is [" + std::to_string(rows.dim(0)) + ", " + std::to_string(rows.dim(1)) + "], not [" +
                     std::to_string(heads) + ", " + std::to_string(prompt + steps) + "]");
      for (std::int64_t h = 0; h < heads; ++h)
        for (std::int64_t t = 0; t < rows.dim(1); ++t) {
          const std::int64_t when = rows(h, t), own_step = t < prompt ? 0 : t - prompt + 1;
          if (when != -1 && (when < own_step || when > steps))
            return fails("token " + std::to_string(t) + " is evicted at step " + std::to_string(when));
        }
    }
  }

  void budget() {
    if (!options_.keeps_its_budget) return;
    const Evicted all = evict(*random_trace(2), options_.budget);
    std::int64_t kept = 0, heads = 0;
    for (const auto& rows : all) {
      heads += rows.dim(0);
      for (std::int64_t h = 0; h < rows.dim(0); ++h) kept += prompt - std::count(&rows(h, 0), &rows(h, 0) + prompt, 0);
    }
    if (kept != heads * options_.budget)
      fails(std::to_string(heads) + " heads keep " + std::to_string(kept) + " tokens when the prompt ends, not " +
            std::to_string(heads) + " times " + std::to_string(options_.budget));
  }

  void everything() {
    for (const auto& rows : evict(*random_trace(3), prompt + steps))
      if (std::count(rows.flat().begin(), rows.flat().end(), -1) != rows.size())
        return fails("a budget of " + std::to_string(prompt + steps) + " tokens evicts some of " +
                     std::to_string(prompt + steps));
  }

  void memory() {
    const auto trace = random_trace(4);
    const Evicted first = evict(*trace, options_.budget);
    evict(*random_trace(5), options_.budget);
    if (!same(first, evict(*trace, options_.budget))) fails("the same trace gives another result after another trace");
  }

  void foresight() {
    if (spec_.description->hindsight) return;
    const Evicted all = evict(*random_trace(6), options_.budget);
    for (int shorter = 0; shorter < steps; ++shorter) {
      const Evicted part = evict(*random_trace(6, shorter), options_.budget);
      for (std::size_t l = 0; l < part.size(); ++l)
        for (std::int64_t h = 0; h < part[l].dim(0); ++h)
          for (std::int64_t t = 0; t < part[l].dim(1); ++t) {
            const std::int32_t then = all[l](h, t) > shorter ? -1 : all[l](h, t);  // what happens later is not known yet
            if (part[l](h, t) == then) continue;
            return fails("token " + std::to_string(t) + " at step " + std::to_string(shorter) +
                         " depends on tokens that come later");
          }
    }
  }

  void window() {
    const auto trace = random_trace(7, steps, sliding_window);
    for (const auto& rows : evict(*trace, options_.budget))
      for (std::int64_t h = 0; h < rows.dim(0); ++h)
        if (std::count(&rows(h, 0), &rows(h, 0) + prompt - sliding_window, -1) != prompt - sliding_window)
          return fails("a token that the sliding window has taken is evicted");
  }

  const PolicySpec& spec_;
  const ConformanceOptions& options_;
  std::unique_ptr<Policy> policy_;
  std::unique_ptr<Backend> backend_;
  std::string name_;
  std::vector<std::string> broken_;
};

}  // namespace

std::vector<std::string> broken_rules(const std::string& policy, const ConformanceOptions& options) {
  return broken_rules(parse_policy(policy), options);
}

std::vector<std::string> broken_rules(const PolicySpec& spec, const ConformanceOptions& options) {
  return Rules(spec, options).broken();
}

}  // namespace kvreplay
