#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <thread>

#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/base/text.h"
#include "core/base/version.h"
#include "core/kernels/kernels.h"
#include "core/policy/layer_workspace.h"
#include "core/replay/replay.h"
#include "trace_tools/backend_option.h"
#include "trace_tools/command.h"
#include "trace_tools/generated_trace.h"
#include "trace_tools/text_columns.h"
#if KVREPLAY_WITH_CUDA
#include "gpu/cuda.h"
#include "gpu/rates.h"
#endif

namespace kvreplay::cli {
namespace {

using Strings = std::vector<std::string>;
using Clock = std::chrono::steady_clock;

double seconds_of(const std::function<void()>& work) {
  const auto begin = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// ---- what the machine can do -------------------------------------------------------------------------------------------

struct Rates {
  std::string device;
  double read = 0, copy = 0, matrix = 0;  // bytes/s, bytes/s read and written together, operations/s
  double from_host = 0;                   // bytes/s to a device; 0 for the CPU
  std::string matrix_by;
};

// Over half a gibibyte, more than any cache has; the best of several runs.
Rates cpu_rates() {
  Rates rates;
  rates.device = std::string("CPU, ") + std::to_string(thread_count()) + " threads, " + kernels::instruction_set();
  constexpr std::int64_t count = std::int64_t{1} << 27, piece = 1 << 20, n = 1024;
  Tensor<float, 1> from({count}), to({count});
  const auto in_pieces = [&](const std::function<void(std::int64_t)>& work) {
    parallel_for(count / piece, 1, [&](std::int64_t begin, std::int64_t) { work(begin * piece); });
  };
  in_pieces([&](std::int64_t at) {
    std::fill_n(from.data() + at, piece, 0.5F);
    std::fill_n(to.data() + at, piece, 0.0F);
  });
  std::vector<float> largest(count / piece);
  double read = 1e30, copy = 1e30, product = 1e30;
  for (int run = 0; run < 4; ++run) {
    read = std::min(read, seconds_of([&] {
                      in_pieces([&](std::int64_t at) {
                        largest[static_cast<std::size_t>(at / piece)] = kernels::maximum(from.data() + at, piece);
                      });
                    }));
    copy = std::min(copy, seconds_of([&] {
                      in_pieces([&](std::int64_t at) { std::copy_n(from.data() + at, piece, to.data() + at); });
                    }));
    product = std::min(product, seconds_of([&] {
                         kernels::parallel_gemm_nt(n, n, n, 1.0F, from.data(), n, from.data() + n * n, n, to.data(), n);
                       }));
  }
  rates.read = 4.0 * count / read;
  rates.copy = 8.0 * count / copy;
  rates.matrix = 2.0 * n * n * n / product;
  rates.matrix_by = "float32, 1024 x 1024 x 1024";
  return rates;
}

Rates rates_of([[maybe_unused]] const std::string& backend, [[maybe_unused]] int device) {
#if KVREPLAY_WITH_CUDA
  if (backend == "cuda") {
    const DeviceRates measured = measure_device_rates(device);
    std::string why, name = "cuda:" + std::to_string(device);
    for (const BackendKind& kind : backend_kinds())
      if (kind.name == "cuda") name += ", " + kind.devices(why).at(static_cast<std::size_t>(device)).name;
    return {name, measured.read, measured.copy, measured.float16, measured.from_host, "float16, " + measured.float16_by};
  }
#endif
  return cpu_rates();
}

// Device memory that a backend holds, and the most since the last call; 0 for the CPU.
struct Memory {
  std::int64_t now = 0, peak = 0;
  int device = 0;
};
Memory memory_of([[maybe_unused]] Backend& backend) {
#if KVREPLAY_WITH_CUDA
  if (backend.name() == "cuda") {
    const DeviceMemory memory = device_memory_of(backend);
    return {memory.now, memory.peak, memory.device};
  }
#endif
  return {};
}

using Backends = std::vector<Backend*>;

// How many devices these backends have between them. Several may share one; all of one kind take turns with the devices.
std::size_t device_count(const Backends& backends, const std::string& choice) {
  if (choice.find(':') != std::string::npos) return 1;
  for (const BackendKind& kind : backend_kinds()) {
    if (kind.name != backends.front()->name()) continue;
    std::string why;
    const auto devices = kind.devices(why);
    const auto usable = std::count_if(devices.begin(), devices.end(), [](const auto& d) { return d.unusable.empty(); });
    return std::max<std::size_t>(1, static_cast<std::size_t>(usable));
  }
  return 1;
}

// The most that any device holds beyond what it held before.
class MemoryWatch {
 public:
  explicit MemoryWatch(const Backends& backends) : backends_(backends) {
    for (Backend* backend : backends_) before_.push_back(memory_of(*backend).now);
  }
  std::int64_t most() const {
    std::map<int, std::int64_t> held;  // by device
    std::int64_t most = 0;
    for (std::size_t b = 0; b < backends_.size(); ++b) {
      const Memory memory = memory_of(*backends_[b]);
      most = std::max(most, held[memory.device] += memory.peak - before_[b]);
    }
    return most;
  }

 private:
  const Backends& backends_;
  std::vector<std::int64_t> before_;
};

// ---- what is measured --------------------------------------------------------------------------------------------------

struct Work {
  double bytes = 0, operations = 0;  // that cannot be avoided
};

struct Measured {
  std::string name;
  Work work = {};
  double median = 0, fastest = 0;  // seconds
  int runs = 0;
  std::int64_t memory = 0;  // bytes beyond what was there before, at most; 0 where it is not known
  double floor = 0;         // seconds
  std::string bound = {};   // "bytes" or "operations"
  std::int64_t parts = 0;   // runs that one measurement is made of; 0: it is one thing
};

void set_floor(Measured& row, const Rates& rates) {
  const double bytes = row.work.bytes / rates.read, operations = row.work.operations / rates.matrix;
  row.floor = std::max(bytes, operations);
  row.bound = bytes > operations ? "bytes" : "operations";
}

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.size() % 2 == 1 ? values[values.size() / 2]
                                : (values[values.size() / 2 - 1] + values[values.size() / 2]) / 2;
}

struct Discard final : EvaluationSink {
  void head(std::size_t, int, std::int64_t, const HeadStep&) override {}
  void layer(std::size_t, std::int64_t, const LayerStep&) override {}
};

// The bytes and operations that each row cannot do without.
struct Counts {
  double heads, kv_heads, d, hidden, window, tokens, prompt, steps, element;

  double key() const { return kv_heads * tokens * d * element; }
  double window_products() const { return 2 * heads * window * prompt * d; }
  double projected_values() const { return 2 * heads * prompt * d * d; }
  // Every window row, in float32, written once and read once: a ranking needs them all.
  double ranked_rows() const { return 2 * heads * window * prompt * 4; }

  Work snapkv() const { return {key(), window_products()}; }
  Work restkv_average() const { return {2 * key(), window_products() + projected_values()}; }
  Work restkv_adaptive() const { return {2 * key() + ranked_rows(), window_products() + projected_values()}; }
  // The error of every query: its outputs, and its distance from every projected value.
  Work restkv_paper() const { return {2 * key() + ranked_rows(), 3 * window_products() + projected_values()}; }
  Work causal_sums(int passes) const { return {key() + heads * prompt * d * element, passes * heads * prompt * prompt * d}; }
  Work decode() const { return {2 * key(), 4 * heads * steps * tokens * d}; }
  // Weights and values of the kept tokens of every run, each once; differences of all heads through W_o.
  Work evaluation(double runs, double kept_tokens) const {
    const double products = 2 * runs * steps * heads * d * hidden;
    const double gathered = kept_tokens * (heads / kv_heads * steps * 4 + d * element);
    return {decode().bytes + gathered, decode().operations + products};
  }
  Work factors() const { return {hidden * heads * d * element, 2 * heads * hidden * d * d}; }
};

// Synthetic layers, as many as are larger together than any cache, and operations on one after the other.
class Operations {
 public:
  Operations(Backend& backend, const Rates& rates, const GeneratedShape& shape, std::int64_t budget, int runs, Job& job)
      : backend_(backend), rates_(rates), shape_(shape), budget_(budget), runs_(runs), job_(job) {
    element_ = backend.name() == "cpu" ? 4 : 2;
    const double layer_bytes = 2.0 * tokens() * shape.kv_heads * shape.head_dim * element_;
    shape_.layers = std::clamp(static_cast<int>(std::ceil(5e8 / layer_bytes)), 1, 16);
    trace_ = make_generated_trace(shape_);
    for (int l = 0; l < shape_.layers; ++l) layers_.push_back(std::make_unique<LayerWorkspace>(*trace_, l, backend_));
  }

  int layers() const { return shape_.layers; }

  // A policy's scoring and selection; what it shares with others is made anew every time, what belongs to the layer (the
  // factor of its Gram matrices) is not.
  Measured policy(const std::string& name, const std::string& text, Work work) {
    const auto made = make_policy(parse_policy(text));
    return measure(name, work, [&](LayerWorkspace& layer) {
      LayerWorkspace fresh(layer, backend_, std::make_shared<SharedValues>());
      if (!made->keep(fresh, budget_)) throw Error(text, "does not evict once");
    });
  }

  Measured column_sums(const std::string& name, Work work) {
    return measure(name, work,
                   [&](LayerWorkspace& layer) { settle(backend_.column_sums(layer.loaded(), ColumnMask::causal, 0)); });
  }

  // Attention of the decode queries over everything, and over what one run kept.
  Measured evaluation(const std::string& name, Work work) {
    KeptSets kept;
    kept.offset.push_back(0);
    for (int h = 0; h < shape_.kv_heads; ++h) {
      for (std::int64_t k = 0; k < budget_; ++k)
        kept.position.push_back(static_cast<std::int32_t>(k * shape_.prompt / budget_));
      kept.offset.push_back(static_cast<std::int64_t>(kept.position.size()));
    }
    EvaluationRequest outputs{true, false, false, false, false};
    Discard sink;
    return measure(name, work, [&](LayerWorkspace& layer) {
      backend_.evaluate(layer.loaded(), {{{}, nullptr, &kept}}, outputs, sink);
    });
  }

  // Everything that is measured of many runs at once, as a sweep has them: ten budgets from 64 to twice --budget, kept sets
  // of each KV head spread over the prompt, different in every run.
  Measured evaluation_of(const std::string& name, std::int64_t runs, const Counts& counts) {
    std::vector<KeptSets> sets(static_cast<std::size_t>(runs));
    std::vector<RunEvictions> evictions;
    double kept_tokens = 0;
    const double largest = static_cast<double>(std::min(2 * budget_, shape_.prompt / 2));
    for (std::int64_t r = 0; r < runs; ++r) {
      KeptSets& kept = sets[static_cast<std::size_t>(r)];
      const auto budget = static_cast<std::int64_t>(64 * std::pow(largest / 64, static_cast<double>(r % 10) / 9));
      kept.offset.push_back(0);
      for (std::int64_t h = 0; h < shape_.kv_heads; ++h) {
        const auto first = static_cast<std::ptrdiff_t>(kept.position.size());
        for (std::int64_t k = 0; k < budget; ++k)
          kept.position.push_back(
              static_cast<std::int32_t>((k * shape_.prompt / budget + r * 7919 + h * 104729) % shape_.prompt));
        std::sort(kept.position.begin() + first, kept.position.end());
        kept.offset.push_back(static_cast<std::int64_t>(kept.position.size()));
      }
      kept_tokens += static_cast<double>(kept.position.size());
      evictions.push_back({{}, nullptr, &kept});
    }
    Discard sink;
    Measured row = measure(name, counts.evaluation(static_cast<double>(runs), kept_tokens),
                           [&](LayerWorkspace& layer) { backend_.evaluate(layer.loaded(), evictions, {}, sink); });
    row.parts = runs;
    return row;
  }

  // The first removal errors of a layer need the factor of its Gram matrices; the next do not.
  Measured factor(const std::string& name, Work work) {
    Measured row{.name = name, .work = work};
    std::vector<double> seconds;
    for (int l = 0; l < std::min(3, shape_.layers); ++l) {
      job_.check();
      LayerWorkspace layer(*trace_, l, backend_);
      const AttentionRows& rows = layer.window_attention(32);
      const std::vector<double> weights(32, 1.0 / 32);
      const auto errors = [&] { settle(backend_.removal_error_of_mean(layer.loaded(), rows, weights, {})); };
      const double first = seconds_of(errors), second = seconds_of(errors);
      const double reading = seconds_of([&] {
        std::vector<std::uint16_t> stored(static_cast<std::size_t>(shape_.hidden_size) *
                                          static_cast<std::size_t>(shape_.query_heads * shape_.head_dim));
        trace_->read_stored(l, LayerDataset::output_projection, stored.data(), {}, {});
      });
      seconds.push_back(std::max(0.0, first - second - reading));
    }
    return finished(row, seconds);
  }

 private:
  double tokens() const { return static_cast<double>(shape_.prompt + shape_.steps); }

  // Waits for what was started.
  void settle(const Array& array) { backend_.download(backend_.prefix(array, 1)); }

  Measured measure(const std::string& name, Work work, const std::function<void(LayerWorkspace&)>& run) {
    Measured row{.name = name, .work = work};
    for (const auto& layer : layers_) run(*layer);  // code is loaded, factors are made, pools have their memory
    const Memory before = memory_of(backend_);
    std::vector<double> seconds;
    double total = 0;
    // At least three, and no more than some seconds.
    while (static_cast<int>(seconds.size()) < runs_ && (seconds.size() < 3 || total < 20)) {
      job_.check();
      LayerWorkspace& layer = *layers_[seconds.size() % layers_.size()];
      total += seconds.emplace_back(seconds_of([&] { run(layer); }));
    }
    row.memory = memory_of(backend_).peak - before.now;
    return finished(row, seconds);
  }

  Measured finished(Measured row, const std::vector<double>& seconds) const {
    row.median = median_of(seconds);
    row.fastest = *std::min_element(seconds.begin(), seconds.end());
    row.runs = static_cast<int>(seconds.size());
    set_floor(row, rates_);
    return row;
  }

  Backend& backend_;
  const Rates& rates_;
  GeneratedShape shape_;
  std::int64_t budget_;
  int runs_, element_;
  Job& job_;
  std::unique_ptr<Trace> trace_;
  std::vector<std::unique_ptr<LayerWorkspace>> layers_;
};

// ---- whole replays -----------------------------------------------------------------------------------------------------

constexpr int plain_readers = 8;

// Reads the file's first `bytes` with 8 threads and forgets them: seconds.
double plain_read_seconds(const std::string& path, double bytes) {
  constexpr std::int64_t piece = std::int64_t{8} << 20;
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw Error(path, std::strerror(errno));
  std::atomic<int> failure = 0;
  const double seconds = seconds_of([&] {
    std::atomic<std::int64_t> next = 0;
    const auto read = [&] {
      std::vector<char> buffer(piece);
      for (std::int64_t at = next.fetch_add(piece); static_cast<double>(at) < bytes; at = next.fetch_add(piece)) {
        const double left = bytes - static_cast<double>(at);
        const auto end = at + static_cast<std::int64_t>(std::min(left, static_cast<double>(piece)));
        for (std::int64_t done = at; done < end;) {
          const ssize_t got = pread(file, buffer.data(), static_cast<std::size_t>(end - done), done);
          if (got < 0 && errno == EINTR) continue;
          if (got <= 0) {
            failure = got < 0 ? errno : ENODATA;
            return;
          }
          done += got;
        }
      }
    };
    std::vector<std::thread> threads;
    for (int reader = 0; reader < plain_readers; ++reader) threads.emplace_back(read);
    for (auto& thread : threads) thread.join();
  });
  close(file);
  if (failure == ENODATA) throw Error(path, "is shorter than its keys, values and queries", "measure an uncompressed trace");
  if (failure != 0) throw Error(path, std::string("cannot be read: ") + std::strerror(failure));
  return seconds;
}

struct Folder {
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "kvreplay-bench-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw Error(name, "cannot be made", "set TMPDIR to a folder with room");
    path = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string path;
};

std::vector<Measured> replays(const Trace& trace, const Strings& policies, const std::string& budget, int runs,
                              const Backends& backends, Job& job) {
  double bytes = 0;
  for (const int layer : trace.layers()) bytes += static_cast<double>(trace.layer_bytes(layer));
  // Of a compressed trace the floor is all of the file.
  bytes = std::min(bytes, static_cast<double>(std::filesystem::file_size(trace.path())));
  plain_read_seconds(trace.path(), bytes);  // the file is in the page cache from here on
  const double floor = std::min(plain_read_seconds(trace.path(), bytes), plain_read_seconds(trace.path(), bytes));
  std::vector<Measured> rows;
  const Folder folder;
  for (const std::string& policy : policies) {
    ReplayRequest request;
    request.policies = {parse_policy(policy)};
    request.budgets = {Budget::parse(budget)};
    std::vector<double> seconds;
    const MemoryWatch memory(backends);
    for (int run = 0; run < runs; ++run) {
      Job quiet;
      job.check();
      seconds.push_back(seconds_of([&] {
        ResultsWriter results(folder.path + "/r.h5");
        replay(trace, request, backends, results, quiet);
        results.finish();
      }));
    }
    Measured row{.name = "replay of " + policy + " at " + budget, .work = {bytes, 0}};
    row.median = median_of(seconds);
    row.fastest = *std::min_element(seconds.begin(), seconds.end());
    row.runs = runs;
    row.memory = memory.most();
    row.floor = floor;
    row.bound = "reading";
    rows.push_back(std::move(row));
  }
  return rows;
}

// ---- a sweep -----------------------------------------------------------------------------------------------------------

// 1,000 settings of ReST-KV: 10 α × 10 scales × 10 budgets from 64 to 2,048.
ReplayRequest sweep_request() {
  ReplayRequest request;
  for (int a = 0; a < 10; ++a)
    for (int s = 0; s < 10; ++s)
      request.policies.push_back(
          parse_policy("restkv:alpha=" + format_number(0.05 + 0.1 * a) + ",scale=" + std::to_string(250 << s)));
  for (int b = 0; b < 10; ++b)
    request.budgets.push_back(Budget::parse(std::to_string(std::lround(64 * std::pow(32.0, b / 9.0)))));
  request.summary_only = true;
  return request;
}

// From layers in the host's memory to a results file with every metric's means.
Measured sweep_of(const GeneratedShape& shape, const Counts& counts, const Backends& backends, std::size_t devices,
                  const Rates& rates, int runs, Job& job) {
  job.begin("generating " + std::to_string(shape.layers) + " layers", 1, "");
  const auto trace = make_generated_trace(shape);
  job.end();
  const ReplayRequest request = sweep_request();
  double kept = 0;
  for (const Budget& budget : request.budgets) kept += budget.value * static_cast<double>(request.policies.size());
  Measured row{.name = "sweep of 1,000 ReST-KV settings, " + std::to_string(shape.layers) +
                       (shape.layers == 1 ? " layer" : " layers") + ", to a results file"};
  for (const int layer : trace->layers()) row.work.bytes += static_cast<double>(trace->layer_bytes(layer));
  // Scores once a layer; attention over everything once, and over what each run kept.
  row.work.operations = shape.layers * (counts.restkv_paper().operations + counts.decode().operations +
                                        4 * counts.heads * counts.steps * kept * counts.d);
  const Folder folder;
  std::vector<double> seconds;
  const MemoryWatch memory(backends);
  for (int run = 0; run < runs; ++run) {
    job.check();
    seconds.push_back(seconds_of([&] {
      Job quiet;
      ResultsWriter results(folder.path + "/r.h5");
      replay(*trace, request, backends, results, quiet);
      results.finish();
    }));
  }
  row.median = median_of(seconds);
  row.fastest = *std::min_element(seconds.begin(), seconds.end());
  row.runs = runs;
  row.memory = memory.most();
  Rates to_device = rates;
  if (rates.from_host > 0) to_device.read = rates.from_host;  // every byte crosses once
  const auto at_work = static_cast<double>(std::min(devices, static_cast<std::size_t>(shape.layers)));
  to_device.read *= at_work;
  to_device.matrix *= at_work;
  set_floor(row, to_device);
  return row;
}

// ---- the command -------------------------------------------------------------------------------------------------------

class BenchCommand final : public Command {
 public:
  std::string_view name() const override { return "bench"; }
  std::string_view summary() const override { return "how fast this machine scores, evicts and replays, beside the floor"; }
  std::string_view usage() const override { return "[--backend B] [--tokens N] [--trace T.h5 [--policy P...]] [options]"; }
  std::string_view description() const override {
    return R"(Measures first what the device can do (bytes read, copied, operations of matrix products a second), then operations on
synthetic layers of 32 query heads over 8 KV heads, d 128, C 4,096, float16, window 32, that are generated in memory:

  kvreplay bench                          the GPU at 131,072 tokens (the CPU at 4,096)
  kvreplay bench --tokens 32768 --only restkv
  kvreplay bench --sweep --tokens 32768
  kvreplay bench --trace t.h5 --policy restkv --policy snapkv      whole replays of a trace, file to file

Beside each median stands its floor: the larger of bytes / rate and operations / rate, counting what no implementation can
do without (each key and value read once, each product computed once, rows that are ranked written and read once). Data
is larger than the caches: layers are taken in turn. Memory is the device's, at most, beyond the layers themselves. Whole
replays and sweeps use every device that --backend names. The floor of a whole replay is a plain read of as many bytes as
the keys, values and queries have, by 8 threads, from the page cache; that of a sweep counts every byte once from pinned
memory to the device, and divides by the devices.)";
  }
  void declare(options::options_description& visible, options::options_description&,
               options::positional_options_description&) const override {
    declare_backend(visible);
    visible.add_options()("tokens", options::value<std::int64_t>()->value_name("N"),
                          "prompt tokens of the synthetic layers (default: 131072 on a GPU, 4096 on the CPU)")(
        "steps", options::value<std::int64_t>()->value_name("N")->default_value(64), "decode queries")(
        "budget", options::value<std::int64_t>()->value_name("N")->default_value(1024), "tokens a head that are kept")(
        "runs-per-layer", options::value<std::int64_t>()->value_name("N"),
        "runs that are evaluated together (default: 1000 on a GPU, 10 on the CPU)")(
        "runs", options::value<int>()->value_name("N"), "runs of each row, of which the median counts (default: 25; 3)")(
        "sweep",
        "1,000 ReST-KV settings (10 alphas, 10 scales, 10 budgets from 64 to 2,048) on layers in the host's memory")(
        "layers", options::value<int>()->value_name("N")->default_value(32), "layers of the sweep")(
        "only", options::value<std::string>()->value_name("TEXT"), "the rows whose name contains TEXT")(
        "trace", options::value<std::string>()->value_name("T.h5"), "replay this trace instead of synthetic layers")(
        "policy", options::value<Strings>()->value_name("P"),
        "policies to replay it with; may be given several times (default: snapkv, restkv, restkv@released)")(
        "trusted", "read the trace in this process even when this machine did not write it");
  }

  int run(const Invocation& call) const override {
    const auto& values = call.values;
    if (values.count("runs") != 0 && values["runs"].as<int>() < 1) throw Error("--runs", "must be at least 1");
    if (values.count("trace") == 0 && values.count("policy") != 0)
      throw UsageError("kvreplay bench", "--policy is for whole replays", "give --trace, or choose rows with --only");
    const auto owned = chosen_backends(call);
    Backends backends;
    for (const auto& one : owned) backends.push_back(one.get());
    Backend* backend = backends.front();
    const std::int64_t tokens = values.count("tokens") != 0 ? values["tokens"].as<std::int64_t>()
                                : backend->name() == "cpu"  ? 4096
                                                            : 131072;
    if (values.count("trace") == 0) check_sizes(values, tokens);
    const std::string choice = values["backend"].as<std::string>();
    const std::size_t devices = device_count(backends, choice);
    const std::size_t colon = choice.find(':');
    const Rates rates = rates_of(backend->name(), colon == std::string::npos ? 0 : std::stoi(choice.substr(colon + 1)));
    const bool on_cpu = backend->name() == "cpu";
    const int runs = values.count("runs") != 0 ? values["runs"].as<int>() : on_cpu || values.count("trace") != 0 ? 3 : 25;
    std::vector<Measured> rows;
    std::string what;
    if (values.count("trace") != 0) {
      const auto trace =
          open_trace(values["trace"].as<std::string>(), values.count("trusted") != 0 ? Trust::trusted : Trust::automatic);
      const Strings policies =
          values.count("policy") != 0 ? values["policy"].as<Strings>() : Strings{"snapkv", "restkv", "restkv@released"};
      rows = replays(*trace, policies, std::to_string(values["budget"].as<std::int64_t>()), runs, backends, call.job);
      what = trace->path() + on_devices(devices);
    } else if (values.count("sweep") != 0) {
      rows = {sweep(call, rates, backends, devices, tokens, values.count("runs") != 0 ? runs : 3)};
      what = std::to_string(tokens) + " tokens" + on_devices(devices);
    } else {
      rows = synthetic(call, *backend, rates, tokens, runs);
      what = std::to_string(tokens) + " tokens";
    }
    print(call, rates, rows, what);
    return 0;
  }

 private:
  // Before anything is measured.
  static void check_sizes(const options::variables_map& values, std::int64_t tokens) {
    const std::int64_t budget = values["budget"].as<std::int64_t>();
    if (tokens < 256) throw Error("--tokens", "must be at least 256");
    if (budget < 64 || budget >= tokens) throw Error("--budget", "must be at least 64 and below --tokens");
    if (values["layers"].as<int>() < 1) throw Error("--layers", "must be at least 1");
    if (values.count("sweep") != 0 && tokens <= 2048)
      throw Error("--tokens", "must be more than a sweep's largest budget, 2048");
    if (values["steps"].as<std::int64_t>() < 1) throw Error("--steps", "must be at least 1");
    if (values.count("runs-per-layer") != 0 && values["runs-per-layer"].as<std::int64_t>() < 1)
      throw Error("--runs-per-layer", "must be at least 1");
  }

  static Counts counts_of(const GeneratedShape& shape, const std::string& backend) {
    return {static_cast<double>(shape.query_heads),
            static_cast<double>(shape.kv_heads),
            static_cast<double>(shape.head_dim),
            static_cast<double>(shape.hidden_size),
            32,
            static_cast<double>(shape.prompt + shape.steps),
            static_cast<double>(shape.prompt),
            static_cast<double>(shape.steps),
            backend == "cpu" ? 4.0 : 2.0};
  }

  static std::string on_devices(std::size_t devices) {
    return devices > 1 ? ", on " + std::to_string(devices) + " devices" : "";
  }

  // Over every device that --backend names.
  static Measured sweep(const Invocation& call, const Rates& rates, const Backends& backends, std::size_t devices,
                        std::int64_t tokens, int runs) {
    GeneratedShape shape;
    shape.layers = call.values["layers"].as<int>();
    shape.prompt = tokens;
    shape.steps = call.values["steps"].as<std::int64_t>();
    shape.held = true;
    return sweep_of(shape, counts_of(shape, backends.front()->name()), backends, devices, rates, runs, call.job);
  }

  static std::vector<Measured> synthetic(const Invocation& call, Backend& backend, const Rates& rates, std::int64_t tokens,
                                         int runs) {
    const std::int64_t budget = call.values["budget"].as<std::int64_t>();
    const bool has_runs = call.values.count("runs-per-layer") != 0;
    const std::int64_t runs_per_layer = has_runs                  ? call.values["runs-per-layer"].as<std::int64_t>()
                                        : backend.name() == "cpu" ? 10
                                                                  : 1000;
    const std::string only = call.values.count("only") != 0 ? call.values["only"].as<std::string>() : "";
    GeneratedShape shape;
    shape.prompt = tokens;
    shape.steps = call.values["steps"].as<std::int64_t>();
    const Counts counts = counts_of(shape, backend.name());
    std::vector<Measured> rows;
    std::unique_ptr<Operations> operations;
    const auto with = [&](const GeneratedShape& wanted) -> Operations& {
      if (!operations) {
        call.job.begin("generating " + std::to_string(tokens) + " tokens", 1, "");
        operations = std::make_unique<Operations>(backend, rates, wanted, budget, runs, call.job);
        call.job.end();
      }
      return *operations;
    };
    const auto row = [&](const std::string& name, const std::function<Measured(const std::string&)>& measure) {
      if (name.find(only) == std::string::npos) return;
      rows.push_back(measure(name));
    };
    row("restkv@released, average pooling: scoring and selection", [&](const std::string& name) {
      return with(shape).policy(name, "restkv@released:pooling=avg", counts.restkv_average());
    });
    row("restkv@released, adaptive pooling: scoring and selection",
        [&](const std::string& name) { return with(shape).policy(name, "restkv@released", counts.restkv_adaptive()); });
    row("restkv@paper: scoring and selection",
        [&](const std::string& name) { return with(shape).policy(name, "restkv", counts.restkv_paper()); });
    row("snapkv@released: scoring and selection",
        [&](const std::string& name) { return with(shape).policy(name, "snapkv@released", counts.snapkv()); });
    row("attention of " + std::to_string(shape.steps) + " decode queries, and of one run",
        [&](const std::string& name) { return with(shape).evaluation(name, counts.decode()); });
    row("evaluate: " + std::to_string(runs_per_layer) + " runs of one layer",
        [&](const std::string& name) { return with(shape).evaluation_of(name, runs_per_layer, counts); });
    row("factors of the Gram matrices, once a layer",
        [&](const std::string& name) { return with(shape).factor(name, counts.factors()); });
    operations.reset();
    shape.query_window = tokens;
    shape.log_sum_exp = true;
    row("h2o: causal column sums, log-sum-exps in the trace",
        [&](const std::string& name) { return with(shape).column_sums(name, counts.causal_sums(1)); });
    operations.reset();
    shape.log_sum_exp = false;
    row("h2o: causal column sums, from scratch",
        [&](const std::string& name) { return with(shape).column_sums(name, counts.causal_sums(2)); });
    if (rows.empty())
      throw Error("--only", "\"" + only + "\" is in no row's name", "`kvreplay bench --tokens 4096` has them all");
    return rows;
  }

  static std::string fixed(double value, int digits) {
    char text[64];
    std::snprintf(text, sizeof text, "%.*f", digits, value);
    return text;
  }
  static std::string milliseconds(double seconds) { return fixed(seconds * 1e3, seconds < 0.01 ? 3 : seconds < 1 ? 2 : 0); }

  static void print(const Invocation& call, const Rates& rates, const std::vector<Measured>& rows, const std::string& what) {
    if (call.json) {
      nlohmann::ordered_json list = nlohmann::ordered_json::array();
      for (const Measured& row : rows)
        list.push_back({{"name", row.name},
                        {"median_seconds", row.median},
                        {"fastest_seconds", row.fastest},
                        {"runs", row.runs},
                        {"floor_seconds", row.floor},
                        {"bound", row.bound},
                        {"ratio", row.median / row.floor},
                        {"bytes", row.work.bytes},
                        {"operations", row.work.operations},
                        {"memory_bytes", row.memory},
                        {"parts", row.parts}});
      const nlohmann::ordered_json out = {{"version", program_version()},
                                          {"device", rates.device},
                                          {"what", what},
                                          {"rates",
                                           {{"read_bytes_per_second", rates.read},
                                            {"copy_bytes_per_second", rates.copy},
                                            {"from_host_bytes_per_second", rates.from_host},
                                            {"matrix_operations_per_second", rates.matrix},
                                            {"matrix_by", rates.matrix_by}}},
                                          {"rows", list}};
      std::printf("%s\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
      return;
    }
    std::printf(
        "%s: reads %.2f TB/s, copies %.2f TB/s, multiplies %.1f TFLOP/s (%s)%s\n%s\n\n", rates.device.c_str(),
        rates.read / 1e12, rates.copy / 1e12, rates.matrix / 1e12, rates.matrix_by.c_str(),
        rates.from_host > 0 ? (", takes " + fixed(rates.from_host / 1e9, 1) + " GB/s from pinned memory").c_str() : "",
        printable(what).c_str());
    std::vector<Strings> table = {{"", "median ms", "fastest", "floor", "ratio", "bound by", "memory"}};
    for (const Measured& row : rows)
      table.push_back({row.name, milliseconds(row.median), milliseconds(row.fastest), milliseconds(row.floor),
                       fixed(row.median / row.floor, 2), row.bound,
                       row.memory > 0 ? format_bytes(static_cast<double>(row.memory)) : "-"});
    std::printf("%s", in_columns(table, {true, false, false, false, false, true, false}).c_str());
    for (const Measured& row : rows)
      if (row.parts > 0)
        std::printf("\n%s: %s ms a run\n", row.name.c_str(),
                    fixed(row.median / static_cast<double>(row.parts) * 1e3, 4).c_str());
  }
};

}  // namespace

const Command& bench_command() {
  static const BenchCommand command;
  return command;
}

}  // namespace kvreplay::cli
