// Prefill and decode rates, beside the rate of matrix products on all threads measured in the same run: the floor.
//
//   kvreplay_benchmarks --benchmark_filter=Engine
//
// Counted are the multiplications and additions that the model's mathematics needs: products with weights, causal scores
// and weighted sums of values, logits; not softmax, norms, or what is computed past the causal border.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/base/parallel.h"
#include "core/kernels/kernels.h"
#include "core/model/engine.h"

namespace kvreplay {
namespace {

namespace fs = std::filesystem;

// The bundled model, the one named by KVREPLAY_BENCHMARK_MODEL, or none.
std::string model_directory() {
  if (const char* named = std::getenv("KVREPLAY_BENCHMARK_MODEL")) return named;
  const fs::path models = fs::path(KVREPLAY_SOURCE_DIR) / "data" / "models";
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(models, ignored))
    if (fs::exists(entry.path() / "config.json")) return entry.path().string();
  return {};
}

double prefill_operations(const ModelConfig& c, double tokens) {
  const double d = c.head_dim, hidden = c.hidden_size, inner = c.intermediate_size;
  const double weights = hidden * d * 2 * (c.num_query_heads + c.num_kv_heads) + 3 * hidden * inner;
  const double attention = 2 * c.num_query_heads * d * (tokens + 1) / 2;  // windows are not subtracted
  return 2 * tokens * (c.num_layers * (weights + attention) + hidden * c.vocabulary_size);
}

// Operations a second of a product of 1,024 on all threads, the best of several.
double product_rate() {
  const std::int64_t n = 1024;
  Tensor<float, 1> a({n * n}, 0.5F), b({n * n}, 0.25F), c({n * n});
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    const auto start = std::chrono::steady_clock::now();
    kernels::parallel_gemm_nt(n, n, n, 1.0F, a.data(), n, b.data(), n, c.data(), n);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return 2.0 * static_cast<double>(n * n * n) / best;
}

struct AllTaps final : EngineObserver {
  std::int64_t prompt = 0;
  std::int64_t column_sum_end() const override { return prompt; }
  bool wants_nll() const override { return true; }
};

const Engine* engine() {
  static const std::string directory = model_directory();
  static const std::unique_ptr<Engine> loaded =
      directory.empty() ? nullptr : std::make_unique<Engine>(Engine::load(directory));
  return loaded.get();
}

void EnginePrefill(benchmark::State& state) {
  if (engine() == nullptr) return state.SkipWithError("no model: set KVREPLAY_BENCHMARK_MODEL");
  const std::int64_t tokens = state.range(0);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < tokens; ++i)
    ids.push_back(static_cast<std::int32_t>((i * i * 31 + i * 7) % engine()->config().vocabulary_size));
  AllTaps taps;
  taps.prompt = tokens;
  Job job;
  const double rate = product_rate();
  for (auto _ : state) {
    Sequence sequence = engine()->start(tokens);
    engine()->read(sequence, ids, taps, job);
  }
  const double operations = prefill_operations(engine()->config(), static_cast<double>(tokens));
  state.counters["FLOP/s"] = benchmark::Counter(operations * static_cast<double>(state.iterations()),
                                                benchmark::Counter::kIsRate, benchmark::Counter::kIs1000);
  state.counters["product_FLOP/s"] = benchmark::Counter(rate, benchmark::Counter::kDefaults, benchmark::Counter::kIs1000);
  state.counters["floor_s"] = operations / rate;
  state.counters["threads"] = thread_count();
}
BENCHMARK(EnginePrefill)->Arg(1024)->Arg(4096)->UseRealTime()->MeasureProcessCPUTime()->Unit(benchmark::kSecond);

void EngineDecode(benchmark::State& state) {
  if (engine() == nullptr) return state.SkipWithError("no model: set KVREPLAY_BENCHMARK_MODEL");
  const std::int64_t tokens = state.range(0);
  const std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens), 5);
  EngineObserver none;
  Job job;
  Sequence sequence = engine()->start(tokens + 100000);
  engine()->read(sequence, ids, none, job);
  for (auto _ : state) {
    const std::int32_t next = sequence.best_token();
    engine()->read(sequence, {&next, 1}, none, job);
  }
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}
BENCHMARK(EngineDecode)->Arg(1024)->UseRealTime()->MeasureProcessCPUTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace kvreplay
