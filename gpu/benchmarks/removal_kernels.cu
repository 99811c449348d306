// Checks the removal errors of every window query against float64, searches for results that depend on timing, then times a
// whole scoring of ReST-KV's published form beside its floor.
//
//   removal_kernels [--repeat N] [--no-check] [--no-times] [--only TEXT]
//
// --only: of checks and times, those whose line contains the text. Every line names what runs before it runs, and waits for
// it: a launch that fails is the one named last. Exit code 1 when a check fails.
#include <cstdlib>
#include <string>

#include "gpu/benchmarks/scoring_problem.cuh"
#include "gpu/kernels/hopper.h"
#include "gpu/kernels/removal_error.h"
#include "gpu/kernels/removal_window.h"
#include "gpu/kernels/selection.h"
#include "gpu/kernels/smoothing.h"

namespace kvreplay::cuda {
namespace {

std::string only;  // what lines must contain

bool chosen(const std::string& line) { return line.find(only) != std::string::npos; }

// Begins a line that the result ends.
void begin_line(const char* format, const std::string& text) {
  std::printf(format, text.c_str());
  std::fflush(stdout);
}

// A line for work that has no result to show.
template <class Work>
void run_step(Device& device, const std::string& what, Work&& work) {
  begin_line("  %s", what);
  work();
  device.synchronize();
  std::printf(": done\n");
  std::fflush(stdout);
}

// ---- float64 -------------------------------------------------------------------------------------------------------------

struct Exact {
  FusedWindow window;
  const void* value;  // of position `low`
  std::int64_t value_stride;
  const double* factor;  // [Hq, d, d]
  double* weight;        // [rows, columns]
  double* output;        // [rows, 2, d]: o, and the mean of all but the largest weight's value
  int* largest;          // [rows]: column of the largest weight
};

// One block a row of the window. 1 - a counts as least_rest at least, as every backend has it: where all other weights
// underflow, nothing is left of their mean.
template <class Element>
__global__ void exact_rows(Exact job) {
  __shared__ double sums[33];
  __shared__ double tops[256];
  __shared__ int columns[256];
  const FusedWindow& window = job.window;
  const RowShape& shape = window.shape;
  const std::int64_t r = blockIdx.x, head = r / shape.window, kv_head = head / window.group;
  const std::int64_t position = shape.first_query + r % shape.window;
  const auto* query = static_cast<const Element*>(window.query) + r * window.dim;
  const auto* key = static_cast<const Element*>(window.key) + kv_head * window.key_head_stride;
  const auto* value = static_cast<const Element*>(job.value) + kv_head * job.value_stride;
  double* weight = job.weight + r * shape.columns;
  double top = -INFINITY;
  int at = -1;
  for (int c = static_cast<int>(threadIdx.x); c < shape.columns; c += static_cast<int>(blockDim.x)) {
    const std::int64_t place = shape.low + c;
    const bool seen = place <= position && (shape.sliding_window == 0 || place > position - shape.sliding_window);
    double dot = 0;
    for (int i = 0; i < window.dim; ++i) dot += static_cast<double>(to_float(query[i])) * to_float(key[c * window.dim + i]);
    weight[c] = seen ? dot * window.scale : -INFINITY;
    if (weight[c] > top) top = weight[c], at = c;
  }
  tops[threadIdx.x] = top;
  columns[threadIdx.x] = at;
  __syncthreads();
  for (int t = 0; t < static_cast<int>(blockDim.x); ++t)
    if (tops[t] > top || (tops[t] == top && columns[t] < at)) top = tops[t], at = columns[t];
  double others = 0;
  for (int c = static_cast<int>(threadIdx.x); c < shape.columns; c += static_cast<int>(blockDim.x)) {
    weight[c] = exp(weight[c] - top);
    if (c != at) others += weight[c];
  }
  others = block_sum(others, sums);
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < window.dim; i += static_cast<int>(blockDim.x)) {
    double total = 0;
    for (int c = 0; c < shape.columns; ++c)
      if (c != at) total += weight[c] * to_float(value[static_cast<std::int64_t>(c) * window.dim + i]);
    job.output[(r * 2 + 1) * window.dim + i] = total / fmax(others, double{least_rest} * (1 + others));
    job.output[r * 2 * window.dim + i] =
        (total + to_float(value[static_cast<std::int64_t>(at) * window.dim + i])) / (1 + others);
  }
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < shape.columns; c += static_cast<int>(blockDim.x))
    weight[c] = c == at ? 1 / (1 + others) : weight[c] / (1 + others);
  if (threadIdx.x == 0) job.largest[r] = at;
}

// point [rows, 2, d] = R · output. One block a row.
__global__ void exact_points(Exact job, double* point) {
  const std::int64_t r = blockIdx.x, head = r / job.window.shape.window;
  const int d = job.window.dim, i = static_cast<int>(threadIdx.x);
  for (int which = 0; which < 2; ++which) {
    double x = 0;
    for (int k = 0; k < d; ++k) x += job.factor[(head * d + i) * d + k] * job.output[(r * 2 + which) * d + k];
    point[(r * 2 + which) * d + i] = x;
  }
}

// error and, of columns whose error is a difference, odds times distance's unit: [rows, n]. One thread a head and candidate.
template <class Element>
__global__ void exact_errors(Exact job, const double* point, bool normalize, double* error, double* odds, double* distance) {
  const RowShape& shape = job.window.shape;
  const std::int64_t n = shape.columns - shape.cut, head = blockIdx.y;
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= n) return;
  const int d = job.window.dim;
  const auto* value =
      static_cast<const Element*>(job.value) + head / job.window.group * job.value_stride + (c + shape.cut) * d;
  double x[128];
  for (int i = 0; i < d; ++i) {
    x[i] = 0;
    for (int k = 0; k < d; ++k) x[i] += job.factor[(head * d + i) * d + k] * to_float(value[k]);
  }
  for (int w = 0; w < shape.window; ++w) {
    const std::int64_t r = head * shape.window + w;
    const double a = job.weight[r * shape.columns + c + shape.cut];
    const bool dominant = a > 0.5 && job.largest[r] == c + shape.cut;
    const double* center = point + (r * 2 + (dominant ? 1 : 0)) * d;
    double squared = 0, length = 0;
    for (int i = 0; i < d; ++i)
      squared += (x[i] - center[i]) * (x[i] - center[i]), length += point[r * 2 * d + i] * point[r * 2 * d + i];
    const double scale = normalize ? 1 / sqrt(length) : 1;
    error[r * n + c] = (dominant ? a : a / (1 - a)) * sqrt(squared) * scale;
    odds[r * n + c] = dominant ? 0 : a / (1 - a) * scale;
    distance[r * n + c] = sqrt(squared);
  }
}

struct ExactErrors {
  std::vector<double> error, slack;  // [rows, n]; slack: odds times the longest distance of the row
  std::int64_t dominated = 0;
};

template <class Element>
ExactErrors exact_errors_of(Device& device, const WindowRemoval& job, const std::vector<double>& factor) {
  const RowShape& shape = job.window.shape;
  const std::int64_t d = job.window.dim, n = job.removal.columns, rows = shape.rows, heads = rows / shape.window;
  const Buffer<double> matrix = uploaded(device, factor);
  Buffer<double> weight(device, rows * shape.columns), output(device, rows * 2 * d), point(device, rows * 2 * d);
  Buffer<double> error(device, rows * n), odds(device, rows * n), distance(device, rows * n);
  Buffer<int> largest(device, rows);
  Exact exact{job.window,
              static_cast<const Element*>(job.removal.value) - shape.cut * d,
              job.removal.head_stride,
              matrix.data(),
              weight.data(),
              output.data(),
              largest.data()};
  exact_rows<Element><<<static_cast<unsigned>(rows), 256, 0, device.stream()>>>(exact);
  check_launch("exact rows");
  exact_points<<<static_cast<unsigned>(rows), static_cast<unsigned>(d), 0, device.stream()>>>(exact, point.data());
  check_launch("exact points");
  exact_errors<Element><<<dim3(blocks_for(n, 64), static_cast<unsigned>(heads)), 64, 0, device.stream()>>>(
      exact, point.data(), job.normalize, error.data(), odds.data(), distance.data());
  check_launch("exact errors");
  ExactErrors result{error.download(), odds.download()};
  const std::vector<double> apart = distance.download(), weights = weight.download();
  for (std::int64_t r = 0; r < rows; ++r) {
    const double longest = *std::max_element(apart.begin() + r * n, apart.begin() + (r + 1) * n);
    for (std::int64_t c = 0; c < n; ++c) result.slack[r * n + c] *= longest;
    result.dominated +=
        *std::max_element(weights.begin() + r * shape.columns, weights.begin() + (r + 1) * shape.columns) > dominance;
  }
  return result;
}

// ---- checks --------------------------------------------------------------------------------------------------------------

// Memory of a prepared removal.
template <class Element>
struct Prepared {
  Buffer<PreparedRemoval::Row> row;
  Buffer<Element> direction;
  Buffer<float> point, center, distance, output, others;
  Buffer<std::int32_t> column;
  Buffer<std::byte> before, scratch;

  Prepared(Device& device, const WindowRemoval& job) {
    const std::int64_t rows = job.window.shape.rows, heads = rows / job.window.shape.window, d = job.window.dim;
    row = Buffer<PreparedRemoval::Row>(device, heads * PreparedRemoval::slot_rows);
    direction = Buffer<Element>(device, heads * 2 * PreparedRemoval::slot_rows * d);
    point = Buffer<float>(device, rows * d);
    center = Buffer<float>(device, heads * d);
    distance = Buffer<float>(device, heads * job.removal.columns);
    output = Buffer<float>(device, rows * d);
    others = Buffer<float>(device, rows * d);
    column = Buffer<std::int32_t>(device, rows);
    before = Buffer<std::byte>(device, prepare_removal_scratch_bytes(job, device.multiprocessors()));
    scratch = Buffer<std::byte>(device, window_removal_scratch_bytes(job));
    for (auto* buffer : {&point, &center, &distance, &output, &others}) buffer->fill_bytes(0xff);
    row.fill_bytes(0xff);
    direction.fill_bytes(0xff);
    column.fill_bytes(0x7f);
    before.fill_bytes(0xff);
    scratch.fill_bytes(0xff);
  }
  WindowOutputs outputs() const { return {output.data(), others.data(), column.data()}; }
  PreparedRemoval result() const { return {row.data(), direction.data(), point.data(), center.data(), distance.data()}; }
};

const char* name_of(RemovalSums form) {
  return form == RemovalSums::group ? "over the group" : form == RemovalSums::heads ? "of each head" : "rows";
}
constexpr RemovalSums forms[] = {RemovalSums::group, RemovalSums::heads, RemovalSums::rows};

std::int64_t result_count(const WindowRemoval& job, RemovalSums form) {
  const std::int64_t rows = job.window.shape.rows, n = job.removal.columns;
  return (form == RemovalSums::rows    ? rows
          : form == RemovalSums::heads ? rows / job.window.shape.window
                                       : job.window.kv_heads) *
         n;
}

// What a form makes of numbers [rows, n].
std::vector<double> summed(const WindowRemoval& job, const RowWeights& weights, RemovalSums form,
                           const std::vector<double>& all) {
  const std::int64_t rows = job.window.shape.rows, n = job.removal.columns, w = job.window.shape.window,
                     group = job.window.group;
  std::vector<double> sums(static_cast<std::size_t>(result_count(job, form)), 0.0);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < n; ++c) {
      const double x = all[r * n + c] * weights.value[r % w];
      if (form == RemovalSums::rows)
        sums[r * n + c] = x;
      else if (form == RemovalSums::heads)
        sums[r / w * n + c] += x;
      else
        sums[r / w / group * n + c] += x / static_cast<double>(group);
    }
  return sums;
}

// |got - want| in shares of relative · want + 2^-13 · slack, as the tests of the backend allow; and relative to want alone.
void report(const char* form, const char* what, const std::vector<float>& got, const std::vector<double>& want,
            const std::vector<double>& slack, double relative, std::int64_t again) {
  double share = 0, worst = 0;
  std::size_t at = 0, bad = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double difference = std::fabs(got[i] - want[i]), limit = relative * want[i] + 0x1p-13 * slack[i] + 1e-30;
    if (!(difference <= limit)) ++bad;
    if (!(difference / limit <= share)) share = difference / limit, at = i;
    if (want[i] > 1e-25 && !(difference / want[i] <= worst)) worst = difference / want[i];
  }
  if (bad > 0) ++failures;
  std::printf(
      "  %-15s %-16s relative %.2e, share of the tolerance %.3f at %zu (%.7g, expected %.7g), %lld tiles again: %s\n", form,
      what, worst, share, at, got[at], want[at], static_cast<long long>(again), bad > 0 ? "FAIL" : "PASS");
  std::fflush(stdout);
}

enum class Kind { usual, sharp, twins, normalize };

template <class Element>
__global__ void scale_all(Element* x, std::int64_t count, float by) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) x[i] = static_cast<Element>(to_float(x[i]) * by);
}

// Statistics of the window, then what sums over its rows start from.
template <class Element>
void prepare_in_steps(Device& device, const Problem<Element>& p, const WindowRemoval& job, const Prepared<Element>& memory) {
  const int sms = device.multiprocessors();
  Buffer<std::byte> scratch(device, statistics_scratch_bytes(p.window, sms));
  run_step(device, "statistics",
           [&] { launch_window_statistics(p.window, p.row_statistics(), scratch.data(), sms, device.stream()); });
  run_step(device, "outputs", [&] {
    launch_window_outputs(p.window, job.statistics,
                          static_cast<const Element*>(job.removal.value) - p.window.shape.cut * p.window.dim,
                          job.removal.head_stride, memory.outputs(), memory.before.data(), sms, device.stream());
  });
  run_step(device, "outputs, directions, distances to the centers", [&] {
    launch_prepare_removal(job, memory.outputs(), memory.result(), memory.before.data(), sms, device.stream());
  });
}

// Two tokens with one value and keys along the first head's newest query: they share its attention.
template <class Element>
__global__ void make_twins(Element* key, Element* value, std::int64_t head_stride, std::int64_t token, const Element* query,
                           int rows_per_head, int dim, int window) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= dim) return;
  for (int twin = 0; twin < 2; ++twin) {
    const std::int64_t at = blockIdx.x * head_stride + (token + twin) * dim + i;
    key[at] = static_cast<Element>(1.5F * to_float(query[(blockIdx.x * rows_per_head + window - 1) * dim + i]));
    value[at] = value[blockIdx.x * head_stride + token * dim + i];
  }
}

template <class Element>
std::string text_of(const Shape& s) {
  const auto number = [](const char* name, std::int64_t x) { return std::string(" ") + name + " " + std::to_string(x); };
  return (std::is_same_v<Element, __half> ? "float16" : "bfloat16") + number("Hq", s.query_heads) +
         number("Hk", s.kv_heads) + number("d", s.dim) + number("W", s.window) + number("P", s.prompt) +
         number("sliding", s.sliding);
}

template <class Element>
void check_errors(Device& device, const Shape& s, bool triangular, Kind kind) {
  const char* kinds[] = {"", " sharp", " twins", " normalised"};
  const std::string line = text_of<Element>(s) + (triangular ? " triangular" : "") + kinds[static_cast<int>(kind)];
  if (!chosen(line)) return;
  begin_line("%s\n", line);
  Problem<Element> p(device, s);
  const std::int64_t d = s.dim;
  if (kind == Kind::sharp) {
    const std::int64_t count = p.query.size();
    scale_all<<<blocks_for(count, 256), 256, 0, device.stream()>>>(p.query.data(), count, 6.0F);
  }
  if (kind == Kind::twins)
    make_twins<<<static_cast<unsigned>(s.kv_heads), 128, 0, device.stream()>>>(p.key.data(), p.value.data(), s.tokens * d,
                                                                               s.prompt / 2, p.query.data(),
                                                                               p.window.group * s.window, s.dim, s.window);
  if (triangular) {
    make_upper<<<static_cast<unsigned>(s.query_heads), 256, 0, device.stream()>>>(p.factor.data(), s.dim);
    launch_round_factor(p.factor.data(), s.query_heads, s.dim, p.rounded.data(), p.unit.data(), device.stream());
    p.removal.triangular = true;
  }
  const WindowRemoval job{p.window, p.removal, p.row_statistics(), kind == Kind::normalize};
  if (!window_removal_supported(job)) {
    std::printf("  not for this shape or device\n");
    return;
  }
  Prepared<Element> memory(device, job);
  prepare_in_steps(device, p, job, memory);

  const int sms = device.multiprocessors();
  const std::vector<__half> rounded = p.rounded.download();
  const std::vector<float> unit = p.unit.download(), factor = p.factor.download();
  std::vector<double> same, exact(factor.begin(), factor.end());
  for (std::size_t i = 0; i < rounded.size(); ++i)
    same.push_back(static_cast<double>(__half2float(rounded[i])) * unit[i / static_cast<std::size_t>(d * d)]);
  const ExactErrors of_same = exact_errors_of<Element>(device, job, same),
                    of_exact = exact_errors_of<Element>(device, job, exact);
  std::printf("  %lld of %lld rows are dominated\n", static_cast<long long>(of_same.dominated),
              static_cast<long long>(p.window.shape.rows));
  for (const RemovalSums form : forms) {
    constexpr std::int64_t guard = 64;
    Buffer<float> out(device, result_count(job, form) + guard);
    out.fill_bytes(0xff);
    run_step(device, name_of(form) + std::string(", tensor cores"), [&] {
      launch_window_removal(job, memory.result(), p.narrow, form, out.data(), memory.scratch.data(), sms, device.stream());
    });
    const std::int64_t again = repaired_tiles(job, memory.scratch.data(), device.stream());
    std::vector<float> got = out.download();
    for (std::int64_t i = 0; i < guard; ++i) {
      std::uint32_t bits = 0;
      std::memcpy(&bits, &got[got.size() - 1 - static_cast<std::size_t>(i)], 4);
      if (bits != 0xffffffffU) ++failures, std::printf("  numbers behind the output were written: FAIL\n");
    }
    got.resize(got.size() - guard);
    const auto want = summed(job, p.narrow, form, of_same.error), slack = summed(job, p.narrow, form, of_same.slack);
    report(name_of(form), "same factor", got, want, slack, 1e-4, again);
    report(name_of(form), "exact factor", got, summed(job, p.narrow, form, of_exact.error), slack, 3e-3, again);
    run_step(device, name_of(form) + std::string(", plain"), [&] {
      launch_window_removal_plain(job, memory.result(), p.narrow, form, out.data(), memory.scratch.data(), sms,
                                  device.stream());
    });
    got = out.download();
    got.resize(got.size() - guard);
    report(name_of(form), "plain", got, want, slack, 1e-4, 0);
  }
}

// Many launches of everything, which must agree to the bit: what is looked for depends on timing.
template <class Element>
void check_repeated(Device& device, const Shape& s, int times) {
  const std::string line = "repeated " + text_of<Element>(s);
  if (!chosen(line)) return;
  begin_line("%s\n", line);
  Problem<Element> p(device, s);
  make_upper<<<static_cast<unsigned>(s.query_heads), 256, 0, device.stream()>>>(p.factor.data(), s.dim);
  launch_round_factor(p.factor.data(), s.query_heads, s.dim, p.rounded.data(), p.unit.data(), device.stream());
  p.removal.triangular = true;
  const WindowRemoval job{p.window, p.removal, p.row_statistics()};
  if (!window_removal_supported(job)) return;
  const int sms = device.multiprocessors();
  Prepared<Element> memory(device, job);
  prepare_in_steps(device, p, job, memory);
  Buffer<float> out(device, result_count(job, RemovalSums::group));
  run_step(device, "over the group, tensor cores", [&] {
    launch_window_removal(job, memory.result(), p.narrow, RemovalSums::group, out.data(), memory.scratch.data(), sms,
                          device.stream());
  });
  std::vector<float> first, first_output;
  int unequal = 0, unequal_output = 0;
  begin_line("  %s times", std::to_string(times));
  for (int i = 0; i < times; ++i) {
    launch_prepare_removal(job, memory.outputs(), memory.result(), memory.before.data(), sms, device.stream());
    out.fill_bytes(0xff);
    launch_window_removal(job, memory.result(), p.narrow, RemovalSums::group, out.data(), memory.scratch.data(), sms,
                          device.stream());
    const std::vector<float> got = out.download(), output = memory.output.download();
    if (i == 0) first = got, first_output = output;
    unequal += std::memcmp(got.data(), first.data(), got.size() * 4) != 0;
    unequal_output += std::memcmp(output.data(), first_output.data(), output.size() * 4) != 0;
  }
  if (unequal + unequal_output > 0) ++failures;
  std::printf(": outputs differ in %d, sums in %d: %s\n", unequal_output, unequal,
              unequal + unequal_output > 0 ? "FAIL" : "PASS");
  const std::vector<double> zero(first.size(), 0.0);
  run_step(device, "over the group, plain", [&] {
    launch_window_removal_plain(job, memory.result(), p.narrow, RemovalSums::group, out.data(), memory.scratch.data(), sms,
                                device.stream());
  });
  const std::vector<float> plain = out.download();
  report("over the group", "against plain", first, {plain.begin(), plain.end()}, zero, 1e-4, 0);
  // Kept sets of both.
  const std::int64_t n = job.removal.columns, budget = n / 64;
  const Buffer<std::int64_t> counts =
      uploaded(device, std::vector<std::int64_t>(static_cast<std::size_t>(s.kv_heads), budget));
  const auto kept_of = [&](const std::vector<float>& scores) {
    const Buffer<float> rows = uploaded(device, scores);
    Buffer<std::int32_t> kept(device, s.kv_heads * budget);
    launch_select_top(rows.data(), s.kv_heads, n, counts.data(), budget, kept.data(), device.stream());
    return kept.download();
  };
  const auto a = kept_of(first), b = kept_of(plain);
  std::int64_t shared = 0;
  for (std::int64_t h = 0; h < s.kv_heads; ++h) {
    std::vector<std::int32_t> both;
    std::set_intersection(a.begin() + h * budget, a.begin() + (h + 1) * budget, b.begin() + h * budget,
                          b.begin() + (h + 1) * budget, std::back_inserter(both));
    shared += static_cast<std::int64_t>(both.size());
  }
  std::printf("  kept sets of %lld: %lld of %lld tokens the same\n", static_cast<long long>(budget),
              static_cast<long long>(shared), static_cast<long long>(budget * s.kv_heads));
  std::fflush(stdout);
}

// ---- times ---------------------------------------------------------------------------------------------------------------

// Two layers take turns, so that nothing is left of one in the second-level cache when its turn comes.
void time_all(Device& device, std::int64_t tokens, int repeat) {
  begin_line("%s tokens, Hq 32, Hk 8, d 128, W 32, float16\n", std::to_string(tokens));
  const Shape s{32, 8, 128, 32, tokens, tokens + 64, 0, 0};
  struct Layer {
    Problem<__half> problem;
    WindowRemoval job;
    Prepared<__half> memory;
    static WindowRemoval prepared_job(Device& device, Problem<__half>& p) {
      make_upper<<<32, 256, 0, device.stream()>>>(p.factor.data(), 128);
      launch_round_factor(p.factor.data(), 32, 128, p.rounded.data(), p.unit.data(), device.stream());
      p.removal.triangular = true;
      return {p.window, p.removal, p.row_statistics()};
    }
    Layer(Device& device, const Shape& shape)
        : problem(device, shape), job(prepared_job(device, problem)), memory(device, job) {}
  };
  Layer layers[2] = {{device, s}, {device, s}};
  const int sms = device.multiprocessors();
  const std::int64_t n = tokens, budget = 2048 - 32;
  const cudaStream_t stream = device.stream();
  Buffer<std::byte> scratch(device, statistics_scratch_bytes(layers[0].problem.window, sms));
  Buffer<float> sums(device, 32 * n), rows(device, 8 * 32 * n), pooled(device, 8 * n), errors(device, 32 * 32 * n);
  Buffer<std::int32_t> kept(device, 8 * budget);
  Buffer<double> means(device, 256);
  const Buffer<std::int64_t> counts = uploaded(device, std::vector<std::int64_t>(8, budget));
  PoolWindows windows{};
  for (int h = 0; h < 8; ++h) windows.kernel[h] = 5;
  const auto statistics = [&](Layer& l) {
    launch_window_statistics(l.problem.window, l.problem.row_statistics(), scratch.data(), sms, stream);
  };
  const auto outputs = [&](Layer& l) {
    launch_window_outputs(l.problem.window, l.job.statistics, l.job.removal.value, l.job.removal.head_stride,
                          l.memory.outputs(), l.memory.before.data(), sms, stream);
  };
  const auto centers = [&](Layer& l) {
    launch_fused_removal_error(l.job.removal, l.memory.center.data(), nullptr, 1, l.memory.distance.data(), sms, stream);
  };
  const auto prepare = [&](Layer& l) {
    launch_prepare_removal(l.job, l.memory.outputs(), l.memory.result(), l.memory.before.data(), sms, stream);
  };
  const auto form = [&](RemovalSums f, float* out) {
    return [&, f, out](Layer& l) {
      launch_window_removal(l.job, l.memory.result(), l.problem.narrow, f, out, l.memory.scratch.data(), sms, stream);
    };
  };
  const auto plain = [&](Layer& l) {
    launch_window_removal_plain(l.job, l.memory.result(), l.problem.narrow, RemovalSums::group, sums.data(),
                                l.memory.scratch.data(), sms, stream);
  };
  const auto group_rows = [&](Layer& l) {
    launch_window_group_rows(l.problem.window, l.problem.row_statistics(), false, rows.data(), sms, stream);
  };
  const auto rank = [&] { launch_mean_top_column(rows.data(), 256, n, budget, true, means.data(), stream); };
  const auto select = [&] {
    launch_average_pool(sums.data(), 8, n, windows, Padding::replicate, pooled.data(), stream);
    launch_select_top(pooled.data(), 8, n, counts.data(), budget, kept.data(), stream);
  };
  int turn = 0;
  const auto show = [&](const char* what, double floor, const std::function<void(Layer&)>& work) {
    if (!chosen(what)) return;
    begin_line("  %-44s", what);
    const double ms = median_ms(device, repeat, [&] { work(layers[turn++ % 2]); });
    device.synchronize();
    std::printf(" %8.4f ms, floor %.4f ms, %.1f x\n", ms, floor, ms / floor);
    std::fflush(stdout);
  };
  for (Layer& l : layers)
    run_step(device, "a layer's statistics, outputs, directions, distances", [&] { statistics(l), prepare(l); });
  const double flops = 752e12, bytes = 4.27e12, special = 16.0 * sms * 1.755e9;
  const double key = 8.0 * n * 128 * 2 / bytes * 1e3, product = 2.0 * 32 * 32 * n * 128 / flops * 1e3;
  const double distance = 2.0 * 32 * n * 128 * 128 * 0.625 / flops * 1e3, number = 32.0 * 32 * n / special * 1e3;
  const double error = std::max({2 * key, 3 * product, 3 * number});
  show("statistics", std::max(key, product), statistics);
  show("outputs", std::max(2 * key, 3 * product), outputs);
  show("distances to the centers", distance, centers);
  show("outputs, directions, distances to centers", std::max(2 * key, 3 * product) + distance, prepare);
  show("errors, sums over the group", error, form(RemovalSums::group, sums.data()));
  show("errors, sums of each head", error, form(RemovalSums::heads, sums.data()));
  show("errors, rows", error + 32.0 * 32 * n * 4 / bytes * 1e3, form(RemovalSums::rows, errors.data()));
  show("errors, sums over the group, plain", error, plain);
  const double all = std::max(key, product) + std::max(2 * key, 3 * product) + distance + error;
  const auto scores = form(RemovalSums::group, sums.data());
  show("ReST-KV paper, scores", all, [&](Layer& l) { statistics(l), prepare(l), scores(l); });
  show("ReST-KV paper, average pooling", all, [&](Layer& l) { statistics(l), prepare(l), scores(l), select(); });
  show("ReST-KV paper, adaptive pooling", all + key + 256.0 * n * 4 / bytes * 1e3,
       [&](Layer& l) { statistics(l), prepare(l), scores(l), group_rows(l), rank(), select(); });
}

int run(int argc, char** argv) {
  int repeat = 20;
  bool checks = true, times = true;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--repeat") == 0 && i + 1 < argc) repeat = std::atoi(argv[++i]);
    if (std::strcmp(argv[i], "--no-check") == 0) checks = false;
    if (std::strcmp(argv[i], "--no-times") == 0) times = false;
    if (std::strcmp(argv[i], "--only") == 0 && i + 1 < argc) only = argv[++i];
  }
  Device device(0);
  std::printf("%s, %d multiprocessors\n", device.name().c_str(), device.multiprocessors());
  if (checks) {
    check_errors<__half>(device, {4, 1, 128, 32, 1000, 1010, 0, 0}, true, Kind::usual);
    check_errors<__half>(device, {8, 2, 64, 32, 777, 800, 0, 0}, false, Kind::usual);
    check_errors<__half>(device, {4, 4, 128, 8, 513, 520, 0, 0}, true, Kind::usual);
    check_errors<__half>(device, {4, 2, 64, 17, 300, 310, 100, 0}, true, Kind::usual);
    check_errors<__half>(device, {14, 2, 64, 32, 1025, 1030, 0, 0}, true, Kind::usual);
    check_errors<__half>(device, {6, 2, 128, 32, 33, 40, 0, 0}, false, Kind::usual);
    check_errors<__half>(device, {4, 1, 64, 1, 1, 8, 0, 0}, true, Kind::usual);
    check_errors<__half>(device, {4, 2, 128, 2, 2, 8, 0, 0}, true, Kind::usual);
    check_errors<__half>(device, {8, 1, 128, 32, 5000, 5001, 0, 0}, true, Kind::usual);
    check_errors<__half>(device, {3, 1, 128, 5, 20000, 20000, 0, 0}, true, Kind::usual);
    check_errors<__half>(device, {8, 2, 128, 32, 1500, 1510, 0, 0}, true, Kind::sharp);
    check_errors<__half>(device, {8, 2, 64, 32, 1500, 1510, 0, 0}, true, Kind::twins);
    check_errors<__half>(device, {8, 2, 128, 32, 700, 710, 0, 0}, true, Kind::normalize);
    check_errors<__half>(device, {32, 4, 128, 32, 4099, 4200, 0, 0}, true, Kind::usual);
    check_errors<__nv_bfloat16>(device, {8, 2, 128, 32, 1000, 1010, 0, 0}, true, Kind::usual);
    check_errors<__nv_bfloat16>(device, {2, 2, 64, 32, 4099, 4100, 1500, 0}, true, Kind::usual);
    check_errors<__nv_bfloat16>(device, {8, 2, 128, 1, 600, 610, 0, 0}, false, Kind::sharp);
    check_errors<__nv_bfloat16>(device, {4, 2, 64, 32, 120, 126, 21, 0}, true, Kind::sharp);
    check_errors<__nv_bfloat16>(device, {8, 2, 128, 32, 900, 910, 0, 0}, true, Kind::twins);
    check_errors<__half>(device, {8, 2, 128, 32, 16385, 16400, 0, 0}, true, Kind::usual);
    // Groups of one and two heads, more tiles in a block than its rings have stages.
    check_errors<__half>(device, {8, 8, 128, 32, 12001, 12032, 0, 0}, true, Kind::usual);
    check_errors<__nv_bfloat16>(device, {16, 8, 128, 32, 12001, 12032, 0, 0}, true, Kind::usual);
    check_errors<__half>(device, {8, 8, 64, 32, 16001, 16032, 0, 0}, true, Kind::usual);
    check_repeated<__half>(device, {32, 8, 128, 32, 131072, 131100, 0, 0}, 12);
    check_repeated<__nv_bfloat16>(device, {32, 8, 64, 32, 40001, 40032, 0, 0}, 12);
    check_repeated<__half>(device, {8, 8, 128, 32, 30001, 30032, 0, 0}, 12);
    check_repeated<__half>(device, {16, 8, 128, 32, 30001, 30032, 0, 0}, 12);
  }
  if (times) {
    time_all(device, 131072, repeat);
    time_all(device, 32768, repeat);
  }
  std::printf(failures == 0 ? "all checks passed\n" : "%d checks FAILED\n", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace kvreplay::cuda

int main(int argc, char** argv) {
  try {
    return kvreplay::cuda::run(argc, argv);
  } catch (const std::exception& error) {
    std::printf("\n");
    std::fflush(stdout);
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
