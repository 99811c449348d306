// Scoring and selection of one layer, beside the floor: the operations that have to be done over the GEMM rate of this
// machine, measured in the same run. Shape: 32 query heads over 8, d 128, C 4,096, window 32, float32 in memory.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cmath>
#include <random>

#include "core/base/parallel.h"
#include "core/kernels/kernels.h"
#include "core/policy/layer_workspace.h"
#include "core/trace/memory_trace.h"

namespace kvreplay {
namespace {

constexpr int query_heads = 32, kv_heads = 8, head_dim = 128, hidden = 4096, window = 32, budget = 1024;

Tensor<float, 3> random_tensor(unsigned seed, std::int64_t a, std::int64_t b, std::int64_t c, float scale) {
  Tensor<float, 3> t({a, b, c});
  parallel_for(a, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::mt19937 random(seed + static_cast<unsigned>(i));
      std::uniform_real_distribution<float> uniform(-scale, scale);
      for (float& x : t.view()[i].flat()) x = uniform(random);
    }
  });
  return t;
}

// One layer with `prompt` tokens and the queries of its last window.
std::unique_ptr<Trace> make_trace(int prompt) {
  MemoryTraceContents contents;
  contents.model.name = contents.model.architecture = "random";
  contents.model.num_layers = 1;
  contents.model.num_query_heads = query_heads;
  contents.model.num_kv_heads = kv_heads;
  contents.model.head_dim = head_dim;
  contents.model.hidden_size = hidden;
  contents.model.attention_scale = 1 / std::sqrt(static_cast<double>(head_dim));
  contents.prompt_length = prompt;
  contents.token_ids.assign(static_cast<std::size_t>(prompt), 0);
  for (int t = prompt - window; t < prompt; ++t) contents.query_positions.push_back(t);
  contents.tensors[{0, LayerDataset::key}] = random_tensor(1, kv_heads, prompt, head_dim, 2);
  contents.tensors[{0, LayerDataset::value}] = random_tensor(2, kv_heads, prompt, head_dim, 1);
  contents.tensors[{0, LayerDataset::query}] = random_tensor(3, query_heads, window, head_dim, 2);
  contents.tensors[{0, LayerDataset::output_projection}] = random_tensor(4, 1, hidden, query_heads * head_dim, 0.02F);
  return make_memory_trace(std::move(contents));
}

double gemm_rate() {
  static const double rate = [] {
    constexpr std::int64_t n = 1024;
    const auto a = random_tensor(5, 1, n, n, 1), b = random_tensor(6, 1, n, n, 1);
    Tensor<float, 2> c({n, n});
    double best = 0;
    for (int i = 0; i < 8; ++i) {
      const auto start = std::chrono::steady_clock::now();
      kernels::parallel_gemm_nt(n, n, n, 1.0F, a.data(), n, b.data(), n, c.data(), n);
      best =
          std::max(best, 2.0 * n * n * n / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
  }();
  return rate;
}

// What scoring cannot do without: window attention, and for ReST-KV the window's outputs, the values behind the factor of
// every head, and the Gram factors from W_o (once a layer).
double operations(const PolicySpec& spec, std::int64_t n) {
  const double attention = 2.0 * query_heads * window * static_cast<double>(n) * head_dim;
  if (spec.description->name == "snapkv") return attention;
  const double factors = 2.0 * query_heads * static_cast<double>(hidden) * head_dim * head_dim;
  return attention + 2.0 * query_heads * static_cast<double>(n) * head_dim * head_dim + factors +
         (spec.variant == "paper" ? 2 * attention : 0);
}

void score_and_select(benchmark::State& state, const char* policy_text) {
  const auto trace = make_trace(static_cast<int>(state.range(0)));
  const auto backend = make_cpu_backend();
  const PolicySpec spec = parse_policy(policy_text);
  const auto policy = make_policy(spec);
  for (auto _ : state) {
    state.PauseTiming();
    LayerWorkspace layer(*trace, 0, *backend);  // conversion and copying of K and V are not scoring
    state.ResumeTiming();
    benchmark::DoNotOptimize(policy->evict(layer, budget));
  }
  const double floor = operations(spec, state.range(0)) / gemm_rate();
  state.counters["floor_ms"] = floor * 1e3;
  state.counters["gemm_GFLOPS"] = gemm_rate() / 1e9;
}

BENCHMARK_CAPTURE(score_and_select, restkv_released_adaptive, "restkv@released")
    ->Arg(8192)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(score_and_select, restkv_released_average, "restkv@released:pooling=avg")
    ->Arg(8192)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(score_and_select, restkv_paper, "restkv")->Arg(8192)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK_CAPTURE(score_and_select, snapkv_released, "snapkv@released")
    ->Arg(8192)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace kvreplay
