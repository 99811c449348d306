// Checks the fused scoring kernels against their plain rungs, then times a whole scoring beside the floor.
//
//   scoring_kernels [--tokens T] [--repeat N] [--no-check]
//
// Exit code 1 when a check fails.
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "gpu/benchmarks/scoring_problem.cuh"
#include "gpu/kernels/hopper.h"
#include "gpu/kernels/product.h"
#include "gpu/kernels/removal_error.h"
#include "gpu/kernels/removal_fused.h"
#include "gpu/kernels/removal_hopper.h"
#include "gpu/kernels/selection.h"
#include "gpu/kernels/smoothing.h"
#include "gpu/kernels/window_fused.h"
#include "gpu/kernels/window_hopper.h"
#include "gpu/kernels/window_rows.h"

namespace kvreplay::cuda {
namespace {

// What the plain forms say.
struct Expected {
  std::vector<float> dominant, mean, grouped, largest, output, error;
};

// One rung of the fused kernels. plain_mean: averaged attention of the plain form, so that errors have one source.
template <class Element>
void check_rung(Device& device, Problem<Element>& p, const Expected& expected, const float* plain_mean, bool wgmma) {
  std::printf("  %s\n", wgmma ? "wgmma" : "mma.sync");
  p.window.hopper = p.removal.hopper = wgmma;
  const RowShape& shape = p.window.shape;
  const int sms = device.multiprocessors();
  const std::int64_t d = p.shape.dim, n = p.removal.columns, heads = p.shape.query_heads,
                     rows = p.shape.kv_heads * p.shape.window;
  constexpr std::int64_t guard = 64;  // numbers behind each output that must stay as they are
  const auto filled = [&](std::int64_t count) {
    Buffer<float> buffer(device, count + guard);
    buffer.fill_bytes(0xff);
    return buffer;
  };
  std::size_t touched = 0;
  const auto result = [&](const Buffer<float>& buffer) {
    std::vector<float> values = buffer.download();
    for (std::int64_t i = buffer.size() - guard; i < buffer.size(); ++i) {
      std::uint32_t bits = 0;
      std::memcpy(&bits, &values[i], 4);
      touched += bits != 0xffffffffU;
    }
    values.resize(values.size() - guard);
    return values;
  };
  Buffer<std::byte> scratch(device, statistics_scratch_bytes(p.window, sms));
  Buffer<float> mean = filled(heads * n), odds = filled(heads * n), grouped = filled(rows * n), largest = filled(rows * n),
                error = filled(heads * n);
  Buffer<float> output = filled(heads * d), center = filled(heads * d);
  p.statistics.fill_bytes(0xff);
  launch_window_statistics(p.window, p.row_statistics(), scratch.data(), sms, device.stream());
  launch_window_sums(p.window, p.row_statistics(), p.narrow, mean.data(), odds.data(), sms, device.stream());
  const auto statistics = p.statistics.download();
  std::vector<float> complement, expected_complement;
  for (std::int64_t r = 0; r < shape.rows; ++r)
    if (expected.dominant[2 * r] >= 0)
      complement.push_back(statistics[2 * shape.rows + r]), expected_complement.push_back(expected.dominant[2 * r + 1]);
  std::printf("  %zu of %lld rows have a dominant weight\n", complement.size(), static_cast<long long>(shape.rows));
  // Logits near 60 in units of log 2 are rounded to 4e-6.
  if (!complement.empty()) compare("1 - dominant weight", complement, expected_complement, 5e-5);
  compare("averaged attention", result(mean), expected.mean, 2e-5);
  if (p.window.group <= 4) {
    launch_window_group_rows(p.window, p.row_statistics(), false, grouped.data(), sms, device.stream());
    launch_window_group_rows(p.window, p.row_statistics(), true, largest.data(), sms, device.stream());
    compare("rows over the group, mean", result(grouped), expected.grouped, 2e-5);
    compare("rows over the group, largest", result(largest), expected.largest, 2e-5);
  }
  Buffer<float> partial(device, mean_output_partial_count(p.removal, n));
  launch_mean_center(p.removal, plain_mean, n, n, partial.data(), output.data(), center.data(), device.stream());
  compare_rows("output of averaged attention", result(output), expected.output, d, 1e-5);
  launch_fused_removal_error(p.removal, center.data(), odds.data(), 1, error.data(), sms, device.stream());
  compare("removal error (float16 factor)", result(error), expected.error, 3e-3, n);
  if (touched > 0) ++failures, std::printf("  %zu numbers behind outputs were written: FAIL\n", touched);
}

template <class Element>
void check_problem(Device& device, const Shape& s, bool triangular) {
  std::printf("%s Hq %d Hk %d d %d W %d P %lld T %lld sliding %d cap %g%s\n",
              std::is_same_v<Element, __half> ? "float16" : "bfloat16", s.query_heads, s.kv_heads, s.dim, s.window,
              static_cast<long long>(s.prompt), static_cast<long long>(s.tokens), s.sliding, s.cap,
              triangular ? " triangular" : "");
  Problem<Element> p(device, s);
  if (triangular) {
    make_upper<<<static_cast<unsigned>(s.query_heads), 256, 0, device.stream()>>>(p.factor.data(), s.dim);
    launch_round_factor(p.factor.data(), s.query_heads, s.dim, p.rounded.data(), p.unit.data(), device.stream());
    p.removal.triangular = true;
  }
  const RowShape& shape = p.window.shape;
  const int group = p.window.group;
  const std::int64_t d = s.dim, n = p.removal.columns, heads = s.query_heads, w = s.window;
  Buffer<float> wide(device, shape.rows * shape.columns), dominant(device, shape.rows * 2), weight(device, shape.rows * n);
  launch_product_nt({p.query.data(), p.window.type, d, group * w * d, 1}, {p.window.key, p.window.type, d, s.tokens * d, 1},
                    s.kv_heads, group * w, shape.columns, d, p.window.scale, s.cap, wide.data(), shape.columns,
                    group * w * shape.columns, device.stream());
  launch_softmax_rows(wide.data(), shape, dominant.data(), device.stream());
  check(cudaMemcpy2DAsync(weight.data(), n * 4, wide.data() + shape.cut, shape.columns * 4, n * 4, shape.rows,
                          cudaMemcpyDeviceToDevice, device.stream()),
        "columns");
  Buffer<float> mean(device, heads * n), grouped(device, s.kv_heads * w * n);
  launch_reduce_rows(weight.data(), heads, s.window, n, p.weights.data(), mean.data(), device.stream());
  launch_reduce_group(weight.data(), s.kv_heads, w * n, group, Reduction::mean, grouped.data(), device.stream());
  Buffer<float> largest(device, s.kv_heads * w * n), want_output(device, heads * d), plain(device, heads * n);
  launch_reduce_group(weight.data(), s.kv_heads, w * n, group, Reduction::max, largest.data(), device.stream());
  launch_mean_output(mean.data(), n, p.removal.value, p.removal.type, s.tokens * d, group, heads, n, s.dim,
                     want_output.data(), device.stream());
  Buffer<float> points(device, d * n), projected(device, heads * d);
  launch_product_nt({want_output.data(), ElementType::float32, d, d, 1},
                    {p.factor.data(), ElementType::float32, d, d * d, 1}, heads, 1, d, d, 1, 0, projected.data(), d, d,
                    device.stream());
  for (std::int64_t h = 0; h < heads; ++h) {
    launch_product_nt({p.factor.data() + h * d * d, ElementType::float32, d, 0, 1},
                      {static_cast<const Element*>(p.removal.value) + h / group * s.tokens * d, p.removal.type, d, 0, 1}, 1,
                      d, n, d, 1, 0, points.data(), n, 0, device.stream());
    launch_removal_error_of_mean(points.data(), projected.data() + h * d, mean.data() + h * n, weight.data() + h * w * n,
                                 dominant.data() + h * w * 2, p.weights.data(), {s.window, n, s.dim, s.dim}, 1,
                                 plain.data() + h * n, device.stream());
  }
  Expected expected{dominant.download(), mean.download(),        grouped.download(),
                    largest.download(),  want_output.download(), plain.download()};
  check_rung(device, p, expected, mean.data(), false);
  if (hopper::supports(p.window) && hopper::supports(p.removal))
    check_rung(device, p, expected, mean.data(), true);
  else
    std::printf("  wgmma: not for this shape or device\n");
}

void check_selection(Device& device, std::int64_t rows, std::int64_t m, int distinct) {
  std::vector<float> scores(static_cast<std::size_t>(rows * m));
  std::srand(7);
  for (auto& x : scores)
    x = distinct > 0 ? static_cast<float>(std::rand() % distinct) - 2 : static_cast<float>(std::rand()) / 1e6F - 50;
  std::vector<std::int64_t> count;
  for (std::int64_t r = 0; r < rows; ++r) count.push_back(r == 0 ? 1 : r == 1 ? m : 1 + (r * 7919) % m);
  Buffer<float> on_device = uploaded(device, scores);
  Buffer<std::int64_t> counts = uploaded(device, count);
  Buffer<std::int32_t> kept(device, rows * m);
  launch_select_top(on_device.data(), rows, m, counts.data(), m, kept.data(), device.stream());
  const auto got = kept.download();
  Buffer<double> means(device, rows);
  const std::int64_t top = std::max<std::int64_t>(1, m / 3);
  std::size_t wrong = 0;
  for (const bool highest : {false, true}) {
    launch_mean_top_column(on_device.data(), rows, m, top, highest, means.data(), device.stream());
    const auto mean = means.download();
    for (std::int64_t r = 0; r < rows; ++r) {
      std::vector<std::int64_t> order(static_cast<std::size_t>(m));
      for (std::int64_t i = 0; i < m; ++i) order[i] = i;
      const float* row = scores.data() + r * m;
      std::sort(order.begin(), order.end(), [&](auto a, auto b) {
        return row[a] != row[b] ? row[a] > row[b] : highest ? a > b : a < b;
      });
      double sum = 0;
      for (std::int64_t i = 0; i < top; ++i) sum += order[i];
      wrong += mean[r] != sum / top;
      if (highest) continue;
      order.resize(count[r]);
      std::sort(order.begin(), order.end());
      for (std::int64_t i = 0; i < count[r]; ++i) wrong += got[r * m + i] != order[i];
    }
  }
  if (wrong > 0) ++failures;
  std::printf("selection %lld x %lld, %d distinct scores: %zu wrong: %s\n", static_cast<long long>(rows),
              static_cast<long long>(m), distinct, wrong, wrong > 0 ? "FAIL" : "PASS");
}

constexpr std::pair<const char*, hopper::Triangle> triangle_forms[] = {
    {"half and two quarters", hopper::Triangle::half_and_quarters},
    {"four quarters", hopper::Triangle::quarters},
};

// Every form of the triangular product against the full one of the same factor, which adds zeros: many times, since what
// is looked for depends on timing.
void check_triangle(Device& device, std::int64_t tokens, int times) {
  if (!hopper::available()) return;
  const Shape s{32, 8, 128, 32, tokens, tokens + 15, 0, 0};
  Problem<__half> p(device, s);
  make_upper<<<32, 256, 0, device.stream()>>>(p.factor.data(), s.dim);
  launch_round_factor(p.factor.data(), 32, s.dim, p.rounded.data(), p.unit.data(), device.stream());
  const std::int64_t n = tokens;
  const Buffer<float> center = normal<float>(device, 32 * 128, 5, 1.0F), odds = normal<float>(device, 32 * n, 6, 1.0F);
  Buffer<float> error(device, 32 * n);
  const auto run = [&](hopper::Triangle form) {
    error.fill_bytes(0xff);
    hopper::removal_error(p.removal, center.data(), odds.data(), 1, error.data(), device.multiprocessors(), device.stream(),
                          form);
    return error.download();
  };
  p.removal.triangular = false;
  const std::vector<float> want = run(hopper::Triangle::none);
  std::printf("triangular products, %lld tokens, %d times each, against the full product\n", static_cast<long long>(tokens),
              times);
  const auto repeat = [&](const char* name, hopper::Triangle form) {
    int wrong_runs = 0;
    std::size_t wrong = 0, unequal = 0;
    std::vector<float> first_wrong;
    for (int i = 0; i < times; ++i) {
      const std::vector<float> got = run(form);
      std::size_t bad = 0;
      for (std::size_t at = 0; at < got.size(); ++at) {
        unequal += got[at] != want[at];
        bad += !(std::fabs(got[at] - want[at]) <= 1e-5F * std::fabs(want[at]));
      }
      wrong += bad;
      wrong_runs += bad > 0;
      if (bad > 0 && first_wrong.empty()) first_wrong = got;
    }
    if (wrong > 0) ++failures;
    std::printf("  %-26s %d of %d runs wrong, %zu values beyond 1e-5, %zu unequal: %s\n", name, wrong_runs, times, wrong,
                unequal, wrong > 0 ? "FAIL" : "PASS");
    if (wrong > 0) locate(first_wrong, want, n, 1e-5);
    std::fflush(stdout);
  };
  repeat("full", hopper::Triangle::none);
  p.removal.triangular = true;
  for (const auto& [name, form] : triangle_forms) repeat(name, form);
}

void time_all(Device& device, std::int64_t tokens, int repeat) {
  const Shape s{32, 8, 128, 32, tokens, tokens + 64, 0, 0};
  Problem<__half> p(device, s);
  make_upper<<<32, 256, 0, device.stream()>>>(p.factor.data(), s.dim);
  launch_round_factor(p.factor.data(), 32, s.dim, p.rounded.data(), p.unit.data(), device.stream());
  p.removal.triangular = true;
  const int sms = device.multiprocessors();
  const std::int64_t n = tokens, heads = 32, budget = 2048 - 32;
  const std::int64_t before = device.bytes();
  Buffer<std::byte> scratch(device, statistics_scratch_bytes(p.window, sms));
  Buffer<float> mean(device, heads * n), odds(device, heads * n), error(device, heads * n), grouped(device, 8 * n),
      pooled(device, 8 * n);
  Buffer<float> output(device, heads * 128), center(device, heads * 128),
      partial(device, mean_output_partial_count(p.removal, n));
  Buffer<std::int32_t> kept(device, 8 * budget);
  Buffer<float> rows(device, 8 * 32 * n);
  Buffer<double> means(device, 256);
  const Buffer<std::int64_t> counts = uploaded(device, std::vector<std::int64_t>(8, budget));
  PoolWindows windows{};
  for (int h = 0; h < 8; ++h) windows.kernel[h] = 5;
  const cudaStream_t stream = device.stream();
  const auto statistics = [&] { launch_window_statistics(p.window, p.row_statistics(), scratch.data(), sms, stream); };
  const auto sums = [&](float* o) {
    launch_window_sums(p.window, p.row_statistics(), p.narrow, mean.data(), o, sms, stream);
  };
  const auto centers = [&] {
    launch_mean_center(p.removal, mean.data(), n, n - 32, partial.data(), output.data(), center.data(), stream);
  };
  const auto distances = [&] {
    launch_fused_removal_error(p.removal, center.data(), odds.data(), 1, error.data(), sms, stream);
  };
  const auto group = [&](const float* from) { launch_reduce_group(from, 8, n, 4, Reduction::mean, grouped.data(), stream); };
  const auto pool = [&] { launch_average_pool(grouped.data(), 8, n, windows, Padding::zero, pooled.data(), stream); };
  const auto select = [&] { launch_select_top(pooled.data(), 8, n, counts.data(), budget, kept.data(), stream); };
  const auto group_rows = [&] { launch_window_group_rows(p.window, p.row_statistics(), false, rows.data(), sms, stream); };
  const auto rank = [&] { launch_mean_top_column(rows.data(), 256, n, budget, true, means.data(), stream); };
  const auto show = [&](const char* what, double floor, const std::function<void()>& work) {
    const double ms = median_ms(device, repeat, work);
    std::printf("  %-40s %8.4f ms, floor %.4f ms, %.1f x\n", what, ms, floor, ms / floor);
    std::fflush(stdout);
  };
  std::printf("%lld tokens, Hq 32, Hk 8, d 128, W 32, float16\n", static_cast<long long>(tokens));
  const double key_ms = 8.0 * n * 128 * 2 / 4.27e12 * 1e3, operations = 2.0 * 32 * 32 * n * 128 / 752e12 * 1e3;
  const double distance_ms = 2.0 * 32 * n * 128 * 128 * 0.625 / 752e12 * 1e3;
  for (const bool wgmma : {false, true}) {
    if (wgmma && !hopper::available()) break;
    std::printf(" %s\n", wgmma ? "wgmma" : "mma.sync");
    p.window.hopper = p.removal.hopper = wgmma;
    show("statistics", std::max(key_ms, operations), statistics);
    show("sums", std::max(key_ms, operations), [&] { sums(nullptr); });
    show("sums and odds", std::max(key_ms, operations), [&] { sums(odds.data()); });
    show("statistics, then sums and odds", 2 * std::max(key_ms, operations), [&] { statistics(), sums(odds.data()); });
    show("rows over the group", key_ms + 256.0 * n * 4 / 4.27e12 * 1e3, group_rows);
    show("distances, triangular", distance_ms, distances);
    if (wgmma)
      for (const auto& [name, form] : triangle_forms)
        show(name, distance_ms,
             [&] { hopper::removal_error(p.removal, center.data(), odds.data(), 1, error.data(), sms, stream, form); });
    p.removal.triangular = false;
    show("distances, full", distance_ms / 0.625, distances);
    p.removal.triangular = true;
    show("ReST-KV released, average", 2 * key_ms + operations + distance_ms,
         [&] { statistics(), sums(odds.data()), centers(), distances(), group(error.data()), pool(), select(); });
    show("ReST-KV released, adaptive", 2 * key_ms + operations + distance_ms + 256.0 * n * 4 / 4.27e12 * 1e3, [&] {
      statistics(), sums(odds.data()), group_rows(), centers(), distances(), group(error.data()), rank(), pool(), select();
    });
    show("SnapKV", key_ms, [&] { statistics(), sums(nullptr), group(mean.data()), pool(), select(); });
  }
  std::printf(" both\n");
  show("centers", key_ms, centers);
  show("group", 5.0 * 8 * n * 4 / 4.27e12 * 1e3, [&] { group(error.data()); });
  show("pool", 2.0 * 8 * n * 4 / 4.27e12 * 1e3, pool);
  show("select", 8.0 * n * 4 / 4.27e12 * 1e3, select);
  show("ranking of the rows", 256.0 * n * 4 / 4.27e12 * 1e3, rank);
  std::printf("  device memory beside the inputs: %.1f MB\n", static_cast<double>(device.bytes() - before) / 1e6);
}

int run(int argc, char** argv) {
  std::int64_t tokens = 131072;
  int repeat = 20;
  bool checks = true;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--tokens") == 0 && i + 1 < argc) tokens = std::atoll(argv[++i]);
    if (std::strcmp(argv[i], "--repeat") == 0 && i + 1 < argc) repeat = std::atoi(argv[++i]);
    if (std::strcmp(argv[i], "--no-check") == 0) checks = false;
  }
  Device device(0);
  std::printf("%s, %d multiprocessors\n", device.name().c_str(), device.multiprocessors());
  if (checks) {
    check_triangle(device, 16385, 20);
    check_triangle(device, 131072, 10);
    check_selection(device, 5, 1, 0);
    check_selection(device, 9, 1000, 0);
    check_selection(device, 9, 3001, 5);
    check_selection(device, 6, 70001, 3);
    check_selection(device, 6, 70001, 0);
    check_problem<__half>(device, {8, 2, 128, 32, 1000, 1010, 0, 0}, true);
    check_problem<__half>(device, {8, 2, 64, 32, 777, 800, 0, 0}, false);
    check_problem<__half>(device, {4, 4, 128, 8, 513, 520, 0, 0}, false);
    check_problem<__half>(device, {4, 2, 64, 17, 300, 310, 100, 0}, true);
    check_problem<__half>(device, {14, 2, 64, 32, 1025, 1030, 0, 5}, true);
    check_problem<__half>(device, {6, 2, 128, 32, 33, 33, 0, 0}, false);
    check_problem<__nv_bfloat16>(device, {8, 2, 128, 32, 1000, 1010, 0, 0}, true);
    check_problem<__nv_bfloat16>(device, {2, 2, 64, 32, 4099, 4100, 1500, 30}, true);
    check_problem<__half>(device, {32, 8, 128, 32, 16385, 16400, 0, 0}, true);
    check_problem<__half>(device, {8, 1, 128, 32, 5000, 5001, 0, 0}, true);
    check_problem<__half>(device, {3, 1, 128, 5, 20000, 20000, 0, 0}, true);
    check_problem<__nv_bfloat16>(device, {16, 4, 64, 32, 40000, 40032, 0, 0}, false);
    check_problem<__nv_bfloat16>(device, {4, 4, 128, 32, 9999, 10000, 4097, 0}, true);
  }
  time_all(device, tokens, repeat);
  time_all(device, tokens / 4, repeat);
  std::printf(failures == 0 ? "all checks passed\n" : "%d checks FAILED\n", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace kvreplay::cuda

int main(int argc, char** argv) {
  try {
    return kvreplay::cuda::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
