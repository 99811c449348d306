// What the programs that measure scoring kernels share: random layers, comparisons, times. One program includes it once.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <vector>

#include "gpu/benchmarks/random.cuh"
#include "gpu/device.h"
#include "gpu/kernels/elements.cuh"
#include "gpu/kernels/removal_fused.h"
#include "gpu/kernels/window_fused.h"

namespace kvreplay::cuda {

inline int failures = 0;

template <class Element>
Buffer<Element> normal(Device& device, std::int64_t count, std::uint64_t seed, float deviation) {
  Buffer<Element> buffer(device, count);
  fill_normal<<<1024, 256, 0, device.stream()>>>(buffer.data(), count, seed, deviation);
  check_launch("random numbers");
  return buffer;
}

// Doubles the length of one key for each head, so that some weights come above 1/2.
template <class Element>
__global__ void make_sink(Element* key, std::int64_t head_stride, const Element* query, int rows_per_head, int dim) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < dim)
    key[blockIdx.x * head_stride + 3 * dim + i] =
        static_cast<Element>(1.5F * to_float(query[blockIdx.x * rows_per_head * dim + i]));
}

inline double median_ms(Device& device, int repeat, const std::function<void()>& work) {
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<double> times;
  for (int i = 0; i < repeat + 3; ++i) {
    cudaEventRecord(begin, device.stream());
    work();
    cudaEventRecord(end, device.stream());
    check(cudaEventSynchronize(end), "timing");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (i >= 3) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// Where wrong values of a result [heads, n] lie: heads, tiles of 64 columns, rows of a tile.
inline void locate(const std::vector<float>& got, const std::vector<float>& want, std::int64_t n, double relative) {
  double largest = 0;
  for (const float w : want)
    if (std::isfinite(w)) largest = std::max<double>(largest, std::fabs(w));
  std::map<std::int64_t, int> heads, tiles, rows;
  std::int64_t shown = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double error = std::fabs(got[i] - want[i]) / (std::fabs(want[i]) + 1e-6 * largest);
    if (error <= relative) continue;
    const std::int64_t at = static_cast<std::int64_t>(i), head = at / n, tile = at % n / 64, row = at % n % 64;
    ++heads[head], ++tiles[head * 10000 + tile], ++rows[row];
    if (shown++ < 4)
      std::printf("    head %lld tile %lld row %lld: %.6g, expected %.6g\n", static_cast<long long>(head),
                  static_cast<long long>(tile), static_cast<long long>(row), got[i], want[i]);
  }
  std::printf("    heads:");
  for (const auto& [head, count] : heads) std::printf(" %lld x%d", static_cast<long long>(head), count);
  std::printf("\n    head.tile (%zu):", tiles.size());
  int listed = 0;
  for (const auto& [tile, count] : tiles)
    if (listed++ < 24)
      std::printf(" %lld.%lld x%d", static_cast<long long>(tile / 10000), static_cast<long long>(tile % 10000), count);
  std::printf("\n    rows of a tile:");
  for (const auto& [row, count] : rows) std::printf(" %lld x%d", static_cast<long long>(row), count);
  std::printf("\n");
}

inline void compare(const char* what, const std::vector<float>& got, const std::vector<float>& want, double relative,
                    std::int64_t columns = 0) {
  double worst = 0, largest = 0;
  std::size_t at = 0, bad = 0;
  for (const float w : want)
    if (std::isfinite(w)) largest = std::max<double>(largest, std::fabs(w));
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double error = std::fabs(got[i] - want[i]) / (std::fabs(want[i]) + 1e-6 * largest);
    if (!(error <= relative)) ++bad;
    if (!(error <= worst)) worst = error, at = i;
  }
  if (bad > 0) ++failures;
  std::printf("  %-34s worst relative error %.2e at %zu (%.9g, expected %.9g), %zu of %zu beyond %.0e: %s\n", what, worst,
              at, got[at], want[at], bad, want.size(), relative, bad > 0 ? "FAIL" : "PASS");
  if (bad > 0 && columns > 0) locate(got, want, columns, relative);
  std::fflush(stdout);
}

// Rows of `width` numbers, each against the length of what is expected of it: single numbers cancel.
inline void compare_rows(const char* what, const std::vector<float>& got, const std::vector<float>& want, std::int64_t width,
                         double relative) {
  double worst = 0;
  std::size_t bad = 0;
  const auto rows = static_cast<std::int64_t>(want.size()) / width;
  for (std::int64_t r = 0; r < rows; ++r) {
    double error = 0, length = 0;
    for (std::int64_t i = r * width; i < (r + 1) * width; ++i) {
      error += (static_cast<double>(got[i]) - want[i]) * (static_cast<double>(got[i]) - want[i]);
      length += static_cast<double>(want[i]) * want[i];
    }
    error = std::sqrt(error / length);
    if (!(error <= relative)) ++bad;
    if (!(error <= worst)) worst = error;
  }
  if (bad > 0) ++failures;
  std::printf("  %-34s worst error %.2e of a row's length, %zu of %lld beyond %.0e: %s\n", what, worst, bad,
              static_cast<long long>(rows), relative, bad > 0 ? "FAIL" : "PASS");
  std::fflush(stdout);
}

struct Shape {
  int query_heads, kv_heads, dim, window;
  std::int64_t prompt, tokens;
  int sliding;
  float cap;
};

template <class Element>
struct Problem {
  Shape shape;
  Buffer<Element> query, key, value;
  Buffer<float> factor, unit, statistics, weights;
  Buffer<__half> rounded;
  FusedWindow window;
  FusedRemoval removal;
  RowWeights narrow;

  Problem(Device& device, const Shape& s) : shape(s) {
    const std::int64_t d = s.dim;
    query = normal<Element>(device, static_cast<std::int64_t>(s.query_heads) * s.window * d, 1, 1.4F);
    key = normal<Element>(device, s.kv_heads * s.tokens * d, 2, 1.4F);
    value = normal<Element>(device, s.kv_heads * s.tokens * d, 3, 0.7F);
    make_sink<<<static_cast<unsigned>(s.kv_heads), 256, 0, device.stream()>>>(
        key.data() + std::max<std::int64_t>(0, s.prompt - 8) / 2 * d, s.tokens * d, query.data(),
        s.query_heads / s.kv_heads * s.window, s.dim);
    factor = normal<float>(device, s.query_heads * d * d, 4, 0.02F);
    rounded = Buffer<__half>(device, s.query_heads * d * d);
    unit = Buffer<float>(device, s.query_heads);
    launch_round_factor(factor.data(), s.query_heads, s.dim, rounded.data(), unit.data(), device.stream());
    window.query = query.data();
    window.type = std::is_same_v<Element, __half> ? ElementType::float16 : ElementType::bfloat16;
    window.key_head_stride = s.tokens * d;
    window.kv_heads = s.kv_heads;
    window.group = s.query_heads / s.kv_heads;
    window.dim = s.dim;
    window.scale = 1 / std::sqrt(static_cast<float>(d));
    window.cap = s.cap;
    RowShape& rows = window.shape;
    rows.rows = static_cast<std::int64_t>(s.query_heads) * s.window;
    rows.window = s.window;
    rows.first_query = s.prompt - s.window;
    rows.low = s.sliding > 0 ? std::max<std::int64_t>(0, rows.first_query - s.sliding + 1) : 0;
    rows.columns = s.prompt - rows.low;
    rows.sliding_window = s.sliding;
    const std::int64_t first = s.sliding > 0 ? std::max<std::int64_t>(0, s.prompt - s.sliding) : 0;
    rows.cut = first - rows.low;
    window.key = key.data() + rows.low * d;
    statistics = Buffer<float>(device, 3 * rows.rows);
    std::vector<float> w;
    double rest = 1;
    for (int i = 0; i < s.window; ++i) w.push_back(static_cast<float>(i + 1 < s.window ? 0.3 * rest : rest)), rest *= 0.7;
    std::reverse(w.begin(), w.end());
    std::copy(w.begin(), w.end(), narrow.value);
    weights = uploaded(device, w);
    removal.value = value.data() + first * d;
    removal.type = window.type;
    removal.head_stride = s.tokens * d;
    removal.kv_heads = s.kv_heads;
    removal.group = window.group;
    removal.dim = s.dim;
    removal.columns = s.prompt - first;
    removal.factor = rounded.data();
    removal.factor_unit = unit.data();
    removal.triangular = false;
    removal.value_scale = window.type == ElementType::bfloat16 ? 64.0F : 1.0F;
  }
  RowStatistics row_statistics() const {
    return {statistics.data(), statistics.data() + window.shape.rows, statistics.data() + 2 * window.shape.rows};
  }
};

// Zeros below the diagonal of every factor.
__global__ void make_upper(float* factor, int dim) {
  for (int i = static_cast<int>(threadIdx.x); i < dim * dim; i += static_cast<int>(blockDim.x))
    if (i % dim < i / dim) factor[static_cast<std::int64_t>(blockIdx.x) * dim * dim + i] = 0;
}

}  // namespace kvreplay::cuda
