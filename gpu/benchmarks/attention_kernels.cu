// Checks the attention kernels (column sums, log-sum-exps, decode attention) against their plain float64 rungs, then times
// them beside the floor: operations at 752 TFLOP/s, bytes at 4.2 TB/s.
//
//   attention_kernels [--prompt P] [--steps S] [--query-heads Hq] [--kv-heads Hk] [--repeat N] [--no-check] [--no-time]
//
// Exit code 1 when a check fails.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "gpu/benchmarks/random.cuh"
#include "gpu/device.h"
#include "gpu/kernels/column_sums.h"
#include "gpu/kernels/decode_attention.h"
#include "gpu/kernels/hopper.h"
#include "gpu/kernels/log_sum_exp.h"

namespace kvreplay::cuda {
namespace {

constexpr double matrix_rate = 752e12, memory_rate = 4.2e12;
int failures = 0;

// ---- data
// ------------------------------------------------------------------------------------------------------------------

template <class T>
class Memory {
 public:
  explicit Memory(std::int64_t count) : count_(count) {
    check(
        cudaMalloc(reinterpret_cast<void**>(&data_), static_cast<std::size_t>(std::max<std::int64_t>(1, count)) * sizeof(T)),
        "device memory");
  }
  Memory(Memory&& other) noexcept : count_(other.count_), data_(std::exchange(other.data_, nullptr)) {}
  Memory& operator=(Memory&&) = delete;
  ~Memory() { cudaFree(data_); }
  T* data() const { return data_; }
  std::int64_t size() const { return count_; }
  void normal(std::uint64_t seed, double deviation) {
    fill_normal<<<2048, 256>>>(data_, count_, seed, static_cast<float>(deviation));
    check_launch("fill_normal");
  }

 private:
  std::int64_t count_;
  T* data_ = nullptr;
};

// Floats with sentinels on both sides; NaN bytes before they are written.
class Output {
 public:
  explicit Output(std::int64_t count) : count_(count), memory_(count + 2 * guard) {
    check(cudaMemset(memory_.data(), 0xff, static_cast<std::size_t>(memory_.size()) * sizeof(float)), "clearing");
  }
  float* data() const { return memory_.data() + guard; }
  std::vector<float> read(const char* what) const {
    std::vector<float> all(static_cast<std::size_t>(memory_.size()));
    check(cudaDeviceSynchronize(), what);
    check(cudaMemcpy(all.data(), memory_.data(), all.size() * sizeof(float), cudaMemcpyDeviceToHost), what);
    const std::vector<std::uint32_t> sentinel(guard, 0xffffffffU);
    if (std::memcmp(all.data(), sentinel.data(), guard * 4) != 0 ||
        std::memcmp(all.data() + guard + count_, sentinel.data(), guard * 4) != 0) {
      std::printf("FAIL %s: wrote outside of its output\n", what);
      ++failures;
    }
    return {all.begin() + guard, all.begin() + guard + count_};
  }

 private:
  static constexpr std::int64_t guard = 256;
  std::int64_t count_;
  Memory<float> memory_;
};

template <class Element>
struct Tensors {
  Memory<Element> query, key, value;
  Tensors(const AttentionShape& shape, double logit_deviation)
      : query(shape.query_heads * shape.query_stride * shape.head_dim),
        key(shape.kv_heads * shape.key_stride * shape.head_dim),
        value(shape.kv_heads * shape.key_stride * shape.head_dim) {
    query.normal(1, std::sqrt(logit_deviation));
    key.normal(2, std::sqrt(logit_deviation));
    value.normal(3, 1);
  }
};

// ---- checks
// ----------------------------------------------------------------------------------------------------------------

void report(const std::string& what, double error, double tolerance) {
  const bool passed = error <= tolerance;  // false for NaN
  std::printf("%s %-92s error %.2e, tolerance %.0e\n", passed ? "PASS" : "FAIL", what.c_str(), error, tolerance);
  if (!passed) ++failures;
}

// Largest |a - b| / (|b| + least); NaN when either has one.
double relative_error(const std::vector<float>& a, const std::vector<float>& b, double least) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double error = std::fabs(static_cast<double>(a[i]) - b[i]) / (std::fabs(static_cast<double>(b[i])) + least);
    if (!(error <= worst)) worst = error;
    if (std::isnan(worst)) return worst;
  }
  return worst;
}
double absolute_error(const std::vector<float>& a, const std::vector<float>& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double error = std::fabs(static_cast<double>(a[i]) - b[i]);
    if (!(error <= worst)) worst = error;
    if (std::isnan(worst)) return worst;
  }
  return worst;
}
// Largest ‖a - b‖ / ‖b‖ of rows of d.
double row_error(const std::vector<float>& a, const std::vector<float>& b, int d) {
  double worst = 0;
  for (std::size_t row = 0; row < a.size(); row += static_cast<std::size_t>(d)) {
    double difference = 0, norm = 0;
    for (std::size_t i = row; i < row + static_cast<std::size_t>(d); ++i) {
      difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
      norm += std::pow(static_cast<double>(b[i]), 2);
    }
    const double error = std::sqrt(difference / norm);
    if (!(error <= worst)) worst = error;
    if (std::isnan(worst)) return worst;
  }
  return worst;
}

template <class Element>
const char* type_name() {
  if constexpr (std::is_same_v<Element, __half>) return "f16";
  if constexpr (std::is_same_v<Element, __nv_bfloat16>) return "bf16";
  return "f32";
}

template <class Element>
std::string describe(const char* what, const AttentionShape& shape) {
  char text[256];
  std::snprintf(
      text, sizeof text, "%s %s d %d, heads %d/%d, queries %lld from %lld, keys %lld, window %lld, full before %lld", what,
      type_name<Element>(), shape.head_dim, shape.query_heads, shape.kv_heads, static_cast<long long>(shape.queries),
      static_cast<long long>(shape.first_position), static_cast<long long>(shape.keys),
      static_cast<long long>(shape.sliding_window), static_cast<long long>(shape.full_before));
  return text;
}

// A logit z is off by some |z| · 2^-20: tensor cores cut sums of products off, once in each of d / 16 steps, where they do
// not fit in float32. So is a weight's relative error, and that of what is made of it.
double sum_tolerance(double deviation) { return 3e-5 * std::max(1.0, deviation / 2); }

template <class Element>
void check_sums(const AttentionShape& shape, std::int64_t first_key, double deviation) {
  const double tolerance = sum_tolerance(deviation);
  const Tensors<Element> tensors(shape, deviation);
  const std::int64_t rows = shape.query_heads * shape.queries, columns = shape.query_heads * (shape.keys - first_key);
  const Output plain_lse(rows), plain_sums(columns);
  log_sum_exp_plain(tensors.query.data(), tensors.key.data(), shape, plain_lse.data(), nullptr);
  for (const int share : {0, 1, 2}) {
    if (share > 0 && (shape.head_dim != 128 || !std::is_same_v<Element, __half>)) continue;
    const Output fast_lse(rows);
    log_sum_exp_tensor(tensors.query.data(), tensors.key.data(), shape, fast_lse.data(), nullptr, share);
    report(describe<Element>("lse ", shape) + ", poly " + std::to_string(share),
           absolute_error(fast_lse.read("log_sum_exp"), plain_lse.read("plain")), tolerance);
  }
  column_sums_plain(tensors.query.data(), tensors.key.data(), plain_lse.data(), shape, first_key, plain_sums.data(),
                    nullptr);
  const auto expected = plain_sums.read("plain");
  const Memory<char> scratch(static_cast<std::int64_t>(column_sums_scratch_bytes(shape)));
  for (const int share : {0, 2, 3}) {
    if (share != 2 && (shape.head_dim != 128 || !std::is_same_v<Element, __half>)) continue;
    const Output fast_sums(columns);
    column_sums_tensor(tensors.query.data(), tensors.key.data(), plain_lse.data(), shape, first_key, fast_sums.data(),
                       scratch.data(), nullptr, share);
    report(describe<Element>("sums", shape) + ", poly " + std::to_string(share),
           relative_error(fast_sums.read("column_sums"), expected, 1e-30), tolerance);
  }
}

template <class Element>
void check_decode(const AttentionShape& shape, double deviation) {
  const Tensors<Element> tensors(shape, deviation);
  const std::int64_t rows = shape.query_heads * shape.queries;
  const Output plain_lse(rows), plain_output(rows * shape.head_dim);
  decode_attention_plain(tensors.query.data(), tensors.key.data(), tensors.value.data(), shape, plain_output.data(),
                         plain_lse.data(), nullptr);
  const auto expected = plain_output.read("plain");
  const auto expected_lse = plain_lse.read("plain");
  const Memory<char> scratch(static_cast<std::int64_t>(decode_attention_scratch_bytes(shape)));
  for (const bool split : {false, true}) {
    const Output fast_lse(rows), fast_output(rows * shape.head_dim);
    decode_attention_tensor(tensors.query.data(), tensors.key.data(), tensors.value.data(), shape, fast_output.data(),
                            fast_lse.data(), scratch.data(), nullptr, split);
    // Independent roundings of the weights, at most 2^-12 or 2^-9 (split: 2^-23, 2^-17) each, beside float32 sums.
    const bool half = std::is_same_v<Element, __half>;
    report(describe<Element>(split ? "decode, split" : "decode", shape),
           row_error(fast_output.read("decode_attention"), expected, shape.head_dim),
           split ? sum_tolerance(deviation) : (half ? 5e-4 : 4e-3));
    report(describe<Element>(split ? "  its lse, split" : "  its lse", shape),
           absolute_error(fast_lse.read("decode_attention"), expected_lse), sum_tolerance(deviation));
  }
}

AttentionShape prompt_shape(int query_heads, int kv_heads, int head_dim, std::int64_t prompt, std::int64_t more_keys = 0) {
  AttentionShape shape;
  shape.query_heads = query_heads;
  shape.kv_heads = kv_heads;
  shape.head_dim = head_dim;
  shape.queries = shape.keys = prompt;
  shape.query_stride = shape.key_stride = prompt + more_keys;
  shape.scale = 1 / std::sqrt(static_cast<double>(head_dim));
  return shape;
}
AttentionShape decode_shape(int query_heads, int kv_heads, int head_dim, std::int64_t prompt, std::int64_t steps,
                            std::int64_t more_rows = 0) {
  AttentionShape shape = prompt_shape(query_heads, kv_heads, head_dim, prompt);
  shape.queries = steps;
  shape.first_position = prompt;
  shape.keys = prompt + steps;
  shape.query_stride = steps + more_rows;
  shape.key_stride = prompt + steps + more_rows;
  return shape;
}
AttentionShape with_window(AttentionShape shape, std::int64_t window) {
  shape.sliding_window = window;
  return shape;
}
AttentionShape with_full_before(AttentionShape shape, std::int64_t position) {
  shape.full_before = position;
  return shape;
}

template <class Element>
void check_type() {
  check_sums<Element>(prompt_shape(4, 2, 128, 1), 0, 2);
  check_sums<Element>(prompt_shape(2, 2, 128, 129, 7), 0, 2);
  check_sums<Element>(prompt_shape(3, 1, 64, 333, 5), 0, 2);
  check_sums<Element>(prompt_shape(8, 2, 128, 1000, 24), 0, 2);
  check_sums<Element>(prompt_shape(2, 1, 128, 900), 0, 12);
  check_sums<Element>(with_full_before(prompt_shape(4, 2, 128, 1000, 24), 968), 0, 2);
  check_sums<Element>(with_full_before(prompt_shape(2, 1, 64, 515), 500), 0, 2);
  check_sums<Element>(with_window(prompt_shape(4, 2, 128, 777), 200), 577, 2);
  check_sums<Element>(with_window(prompt_shape(2, 1, 64, 2100, 3), 700), 0, 2);
  check_sums<Element>(with_full_before(with_window(prompt_shape(2, 1, 128, 1300), 400), 1270), 0, 2);
  check_sums<Element>(decode_shape(4, 1, 128, 700, 65, 3), 100, 2);
  check_sums<Element>(prompt_shape(4, 2, 128, 8192), 0, 2);
  check_decode<Element>(decode_shape(4, 2, 128, 1, 1), 2);
  check_decode<Element>(decode_shape(3, 1, 64, 500, 7, 5), 2);
  check_decode<Element>(decode_shape(8, 2, 128, 1000, 64, 3), 2);
  check_decode<Element>(decode_shape(4, 4, 128, 2000, 65), 2);
  check_decode<Element>(decode_shape(4, 2, 128, 3000, 33), 12);
  check_decode<Element>(with_window(decode_shape(8, 1, 64, 3000, 65), 300), 2);
  check_decode<Element>(with_window(decode_shape(4, 2, 128, 3000, 130), 60), 2);
  check_decode<Element>(decode_shape(8, 2, 128, 20000, 64), 2);
}

// The plain rung itself, where everything is known: equal keys give equal weights.
void check_plain() {
  AttentionShape shape = prompt_shape(2, 1, 80, 200);
  const Tensors<float> tensors(shape, 2);
  check(cudaMemset(tensors.key.data(), 0, static_cast<std::size_t>(tensors.key.size()) * sizeof(float)), "clearing");
  const Output lse(2 * 200), sums(2 * 200);
  log_sum_exp_plain(tensors.query.data(), tensors.key.data(), shape, lse.data(), nullptr);
  column_sums_plain(tensors.query.data(), tensors.key.data(), lse.data(), shape, 0, sums.data(), nullptr);
  std::vector<float> expected_lse(400), expected_sums(400);
  for (int h = 0; h < 2; ++h) {
    double sum = 0;
    for (int i = 199; i >= 0; --i) {
      expected_lse[static_cast<std::size_t>(200 * h + i)] = static_cast<float>(std::log(i + 1.0));
      expected_sums[static_cast<std::size_t>(200 * h + i)] = static_cast<float>(sum += 1 / (i + 1.0));
    }
  }
  report("plain lse of equal keys, f32, d 80", absolute_error(lse.read("plain"), expected_lse), 1e-6);
  report("plain sums of equal keys, f32, d 80", relative_error(sums.read("plain"), expected_sums, 0), 2e-6);
}

// ---- times
// -----------------------------------------------------------------------------------------------------------------

double median_ms(int repeat, const std::function<void()>& work) {
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "making an event");
  check(cudaEventCreate(&end), "making an event");
  work();
  std::vector<float> times(static_cast<std::size_t>(repeat));
  for (float& time : times) {
    check(cudaEventRecord(begin), "recording an event");
    work();
    check(cudaEventRecord(end), "recording an event");
    check(cudaEventSynchronize(end), "waiting for a kernel");
    check(cudaEventElapsedTime(&time, begin, end), "reading a time");
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void report_time(const std::string& what, double ms, double operations, double bytes, double target) {
  const double floor = std::max(operations / matrix_rate, bytes / memory_rate) * 1e3;
  std::printf("TIME %-64s %9.3f ms, floor %8.3f ms (%5.1f %%), %6.1f TFLOP/s, %5.2f TB/s", what.c_str(), ms, floor,
              100 * floor / ms, operations / ms * 1e-9, bytes / ms * 1e-9);
  if (target > 0) std::printf(", target %.3f ms %s", target, ms <= target ? "reached" : "MISSED");
  std::printf("\n");
  std::fflush(stdout);
}

// Σ over keys of the column sums is the number of queries: the largest relative deviation over heads.
double conservation(const std::vector<float>& sums, const AttentionShape& shape) {
  double worst = 0;
  for (int h = 0; h < shape.query_heads; ++h) {
    double total = 0;
    for (std::int64_t i = 0; i < shape.keys; ++i) total += sums[static_cast<std::size_t>(h * shape.keys + i)];
    worst = std::max(worst, std::fabs(total / static_cast<double>(shape.queries) - 1));
  }
  return worst;
}

struct Sizes {
  std::int64_t prompt = 131072, steps = 64;
  int query_heads = 32, kv_heads = 8, repeat = 5;
};

template <class Element>
void time_prompt(const Sizes& sizes, int head_dim, std::int64_t prompt, bool all) {
  const AttentionShape shape = prompt_shape(sizes.query_heads, sizes.kv_heads, head_dim, prompt);
  const Tensors<Element> tensors(shape, 2);
  const Memory<float> lse(shape.query_heads * prompt);
  const Output sums(shape.query_heads * prompt);
  const Memory<char> scratch(static_cast<std::int64_t>(column_sums_scratch_bytes(shape)));
  const double pairs = 0.5 * static_cast<double>(prompt) * static_cast<double>(prompt + 1) * shape.query_heads;
  const double operations = 2.0 * head_dim * pairs;
  const double bytes = 2.0 * head_dim * static_cast<double>(prompt) * (shape.query_heads + shape.kv_heads);
  const std::string size =
      std::string(", ") + type_name<Element>() + ", d " + std::to_string(head_dim) + ", P " + std::to_string(prompt);
  const bool usual = head_dim == 128 && sizes.query_heads == 32;
  const double sums_target = usual && prompt == 131072 ? 170 : 0;
  const double both_target = usual ? (prompt == 131072 ? 400 : prompt == 32768 ? 28 : 0) : 0;
  double lse_ms = 0, sums_ms = 0;
  for (const int share : {1, 2, 0}) {
    if (share != 0 && !all) continue;
    lse_ms = median_ms(sizes.repeat, [&] {
      log_sum_exp_tensor(tensors.query.data(), tensors.key.data(), shape, lse.data(), nullptr, share);
    });
    report_time("log-sum-exp" + size + ", poly " + std::to_string(share), lse_ms, operations, bytes, 0);
  }
  for (const int share : {0, 3, 2}) {
    if (share != 2 && !all) continue;
    sums_ms = median_ms(sizes.repeat, [&] {
      column_sums_tensor(tensors.query.data(), tensors.key.data(), lse.data(), shape, 0, sums.data(), scratch.data(),
                         nullptr, share);
    });
    report_time("column sums" + size + ", poly " + std::to_string(share), sums_ms, operations, bytes, sums_target);
  }
  report_time("both" + size, lse_ms + sums_ms, 2 * operations, 2 * bytes, both_target);
  report("sum of column sums is the number of queries" + size, conservation(sums.read("column_sums"), shape), 5e-6);
  if (!all) return;

  const AttentionShape full = with_full_before(shape, prompt - 32);
  const double full_ms = median_ms(std::min(sizes.repeat, 3), [&] {
    column_sums_tensor(tensors.query.data(), tensors.key.data(), lse.data(), full, 0, sums.data(), scratch.data(), nullptr);
  });
  report_time("column sums, full before the window" + size, full_ms, 2 * operations, bytes, 0);

  // Two heads against the plain rung at full length.
  AttentionShape few = shape;
  few.query_heads = 2;
  few.kv_heads = 1;
  const Output plain_lse(2 * prompt), plain_sums(2 * prompt), fast_lse(2 * prompt), fast_sums(2 * prompt);
  const double plain_lse_ms =
      median_ms(1, [&] { log_sum_exp_plain(tensors.query.data(), tensors.key.data(), few, plain_lse.data(), nullptr); });
  const double plain_ms = median_ms(1, [&] {
    column_sums_plain(tensors.query.data(), tensors.key.data(), plain_lse.data(), few, 0, plain_sums.data(), nullptr);
  });
  std::printf("TIME plain rung, 2 heads%s: log-sum-exp %.1f ms, column sums %.1f ms\n", size.c_str(), plain_lse_ms,
              plain_ms);
  log_sum_exp_tensor(tensors.query.data(), tensors.key.data(), few, fast_lse.data(), nullptr);
  column_sums_tensor(tensors.query.data(), tensors.key.data(), fast_lse.data(), few, 0, fast_sums.data(), scratch.data(),
                     nullptr);
  report("lse, 2 heads against plain" + size, absolute_error(fast_lse.read("lse"), plain_lse.read("plain")),
         sum_tolerance(2));
  report("sums from scratch, 2 heads against plain" + size,
         relative_error(fast_sums.read("sums"), plain_sums.read("plain"), 0), sum_tolerance(2));
}

template <class Element>
void time_decode(const Sizes& sizes, int head_dim) {
  const AttentionShape shape = decode_shape(sizes.query_heads, sizes.kv_heads, head_dim, sizes.prompt, sizes.steps);
  const Tensors<Element> tensors(shape, 2);
  const std::int64_t rows = shape.query_heads * shape.queries;
  const Output output(rows * head_dim), lse(rows), plain_output(rows * head_dim), plain_lse(rows);
  const Memory<char> scratch(static_cast<std::int64_t>(decode_attention_scratch_bytes(shape)));
  const double operations = 4.0 * head_dim * static_cast<double>(rows) * static_cast<double>(shape.keys);
  const double bytes = 4.0 * head_dim * static_cast<double>(shape.keys) * shape.kv_heads;
  const std::string size = std::string(", ") + type_name<Element>() + ", d " + std::to_string(head_dim) + ", T " +
                           std::to_string(shape.keys) + ", S " + std::to_string(shape.queries);
  const bool usual = head_dim == 128 && sizes.query_heads == 32 && sizes.prompt == 131072 && sizes.steps == 64;
  const double plain_ms = median_ms(1, [&] {
    decode_attention_plain(tensors.query.data(), tensors.key.data(), tensors.value.data(), shape, plain_output.data(),
                           plain_lse.data(), nullptr);
  });
  std::printf("TIME plain decode attention%s: %.1f ms\n", size.c_str(), plain_ms);
  const auto expected = plain_output.read("plain"), expected_lse = plain_lse.read("plain");
  for (const bool split : {false, true}) {
    const double ms = median_ms(20, [&] {
      decode_attention_tensor(tensors.query.data(), tensors.key.data(), tensors.value.data(), shape, output.data(),
                              lse.data(), scratch.data(), nullptr, split);
    });
    report_time(std::string("decode attention") + (split ? ", split weights" : "") + size, ms,
                (split ? 1.5 : 1) * operations, bytes, usual ? 0.35 : 0);
    const bool half = std::is_same_v<Element, __half>;
    report(std::string("decode attention against plain") + (split ? ", split weights" : "") + size,
           row_error(output.read("decode"), expected, head_dim), split ? 5e-5 : (half ? 5e-4 : 4e-3));
    report("  its lse" + size, absolute_error(lse.read("decode"), expected_lse), sum_tolerance(2));
  }
}

int run(int count, char** arguments) {
  Sizes sizes;
  bool checks = true, times = true;
  for (int i = 1; i < count; ++i) {
    const std::string option = arguments[i];
    const auto number = [&] { return i + 1 < count ? std::atoll(arguments[++i]) : 0; };
    if (option == "--prompt")
      sizes.prompt = number();
    else if (option == "--steps")
      sizes.steps = number();
    else if (option == "--query-heads")
      sizes.query_heads = static_cast<int>(number());
    else if (option == "--kv-heads")
      sizes.kv_heads = static_cast<int>(number());
    else if (option == "--repeat")
      sizes.repeat = static_cast<int>(number());
    else if (option == "--no-check")
      checks = false;
    else if (option == "--no-time")
      times = false;
    else
      return std::fprintf(stderr, "unknown option %s\n", option.c_str()), 2;
  }
  int device = 0;
  check(cudaGetDevice(&device), "asking for the device");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "asking for the device's properties");
  std::printf("%s, %d multiprocessors, wgmma kernels %s\n", properties.name, properties.multiProcessorCount,
              hopper::available() ? "available" : "not available");
  check_plain();
  if (!hopper::available()) return failures > 0 ? 1 : 0;
  if (checks) {
    check_type<__half>();
    check_type<__nv_bfloat16>();
  }
  if (times) {
    time_decode<__half>(sizes, 128);
    time_decode<__nv_bfloat16>(sizes, 64);
    time_prompt<__half>(sizes, 128, std::min<std::int64_t>(32768, sizes.prompt), false);
    time_prompt<__half>(sizes, 64, std::min<std::int64_t>(32768, sizes.prompt), false);
    time_prompt<__half>(sizes, 128, sizes.prompt, true);
  }
  std::printf("%s: %d failures\n", failures == 0 ? "PASS" : "FAIL", failures);
  return failures > 0 ? 1 : 0;
}

}  // namespace
}  // namespace kvreplay::cuda

int main(int count, char** arguments) try {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  return kvreplay::cuda::run(count, arguments);
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
