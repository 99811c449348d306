// Rates of the kernels beside the machine's peak of fused multiply-adds, measured in the same run.
//
//   kvreplay_benchmarks --benchmark_filter='Peak|Product'
#include <benchmark/benchmark.h>

#include <vector>

#include "core/base/parallel.h"
#include "core/base/tensor.h"
#include "core/kernels/kernels.h"

namespace kvreplay::kernels {
namespace {

void report_flops(benchmark::State& state, double flops_per_iteration) {
  state.counters["FLOP/s"] = benchmark::Counter(flops_per_iteration * static_cast<double>(state.iterations()),
                                                benchmark::Counter::kIsRate, benchmark::Counter::kIs1000);
}

Tensor<float, 1> numbers(std::int64_t count) {
  Tensor<float, 1> values({count});
  for (std::int64_t i = 0; i < count; ++i) values[i] = static_cast<float>((i * 37) % 101) / 101.0F - 0.5F;
  return values;
}

#if defined(__x86_64__)
typedef float Vector __attribute__((vector_size(32)));

// Independent multiply-adds on registers alone: the ceiling of any product on one thread with AVX2.
__attribute__((target("avx2,fma"))) void Peak(benchmark::State& state) {
  Vector factor{}, term{};
  for (int l = 0; l < 8; ++l) factor[l] = 0.999F, term[l] = 0.001F;
  Vector a = term, b = term, c = term, d = term, e = term, f = term, g = term, h = term, i = term, j = term;
  constexpr int rounds = 10000;
  for (auto _ : state)
    for (int round = 0; round < rounds; ++round) {
      a = a * factor + term, b = b * factor + term, c = c * factor + term, d = d * factor + term, e = e * factor + term;
      f = f * factor + term, g = g * factor + term, h = h * factor + term, i = i * factor + term, j = j * factor + term;
      asm volatile("" : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f), "+x"(g), "+x"(h), "+x"(i), "+x"(j));
    }
  report_flops(state, 2.0 * 8 * 10 * rounds);
}
BENCHMARK(Peak);
#endif

void ProductNT(benchmark::State& state) {
  const std::int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const auto a = numbers(m * k), b = numbers(n * k);
  Tensor<float, 1> c({m * n});
  for (auto _ : state) gemm_nt(m, n, k, 1.0F, a.data(), k, b.data(), k, c.data(), n);
  report_flops(state, 2.0 * static_cast<double>(m * n * k));
}
void ProductNN(benchmark::State& state) {
  const std::int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const auto a = numbers(m * k), b = numbers(n * k);
  Tensor<float, 1> c({m * n});
  for (auto _ : state) gemm_nn(m, n, k, 1.0F, a.data(), k, b.data(), n, c.data(), n);
  report_flops(state, 2.0 * static_cast<double>(m * n * k));
}
void ProductPacked(benchmark::State& state) {
  const std::int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const auto a = numbers(m * k), b = numbers(n * k);
  Tensor<float, 1> packed({static_cast<std::int64_t>(packed_floats(n, k))}), c({m * n});
  pack(n, k, b.data(), k, packed.data());
  for (auto _ : state) gemm_packed(m, n, k, 1.0F, a.data(), k, packed.data(), c.data(), n);
  report_flops(state, 2.0 * static_cast<double>(m * n * k));
}
void ProductOnAllThreads(benchmark::State& state) {
  const std::int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const auto a = numbers(m * k), b = numbers(n * k);
  Tensor<float, 1> c({m * n});
  for (auto _ : state) parallel_gemm_nt(m, n, k, 1.0F, a.data(), k, b.data(), k, c.data(), n);
  report_flops(state, 2.0 * static_cast<double>(m * n * k));
  state.counters["threads"] = thread_count();
}

void sizes(benchmark::internal::Benchmark* b) {
  b->Args({512, 512, 512})->Args({1024, 1024, 1024})->Args({32, 1024, 64})->Args({256, 1024, 64})->Args({1024, 256, 64});
  b->Args({256, 64, 1024})->Args({256, 768, 256})->Args({32, 4096, 128})->Args({64, 512, 512})->Args({1, 4096, 256});
}
BENCHMARK(ProductNT)->Apply(sizes);
BENCHMARK(ProductNN)->Apply(sizes);
BENCHMARK(ProductPacked)->Apply(sizes);
BENCHMARK(ProductOnAllThreads)->Args({1024, 1024, 1024})->Args({256, 768, 256})->UseRealTime();

void Exponentials(benchmark::State& state) {
  const std::int64_t n = state.range(0);
  const auto source = numbers(n);
  Tensor<float, 1> x({n});
  for (auto _ : state) {
    std::copy(source.data(), source.data() + n, x.data());
    benchmark::DoNotOptimize(exponentiate(x.data(), n, 0.5F));
  }
  state.counters["elements/s"] =
      benchmark::Counter(static_cast<double>(n * state.iterations()), benchmark::Counter::kIsRate);
}
BENCHMARK(Exponentials)->Arg(1024);

void SquaredDistances(benchmark::State& state) {
  const std::int64_t count = 1024, dim = state.range(0);
  const auto points = numbers(count * dim), center = numbers(dim);
  Tensor<float, 1> out({count});
  for (auto _ : state) squared_distances(points.data(), count, dim, dim, center.data(), out.data());
  report_flops(state, 3.0 * static_cast<double>(count * dim));
}
BENCHMARK(SquaredDistances)->Arg(64)->Arg(128);

}  // namespace
}  // namespace kvreplay::kernels
