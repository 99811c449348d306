// Reading a layer of a trace as it is stored, beside the floor: as many threads that do nothing but read the same number of
// bytes of the same file from the page cache. 8 KV heads, d 128, float16, 131,072 tokens: keys and values are 537 MB.
//
//   kvreplay_benchmarks --benchmark_filter=Reading
#include <benchmark/benchmark.h>

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <thread>

#include "core/base/parallel.h"
#include "core/trace/synthetic.h"
#include "core/trace/trace.h"

namespace kvreplay {
namespace {

constexpr int reading_threads = 8;

// A trace of one layer in the temporary folder, gone with the program.
class SampleTrace {
 public:
  SampleTrace() {
    std::string name = (std::filesystem::temp_directory_path() / "kvreplay-reading-XXXXXX").string();
    folder_ = mkdtemp(name.data());
    SyntheticParameters parameters;
    parameters.layers = 1;
    parameters.query_heads = 32;
    parameters.kv_heads = 8;
    parameters.head_dim = 128;
    parameters.prompt = 131072;
    parameters.query_window = 32;
    Job job;
    write_synthetic(folder_ + "/t.h5", parameters, job);
    trace = open_trace(folder_ + "/t.h5", Trust::trusted);
  }
  ~SampleTrace() {
    trace.reset();
    std::filesystem::remove_all(folder_);
  }
  SampleTrace(const SampleTrace&) = delete;

  std::unique_ptr<Trace> trace;

 private:
  std::string folder_;
};

SampleTrace& sample() {
  static SampleTrace made;
  return made;
}

std::int64_t bytes_of(const Trace& trace, LayerDataset which) {
  const auto shape = trace.shape(0, which);
  return shape[0] * shape[1] * shape[2] * static_cast<std::int64_t>(element_size(trace.type(0, which)));
}

void count_bytes(benchmark::State& state, std::int64_t bytes) {
  state.SetBytesProcessed(state.iterations() * bytes);
  state.counters["threads"] = std::min(reading_threads, thread_count());
}

void ReadingStoredLayer(benchmark::State& state) {
  const Trace& trace = *sample().trace;
  const std::int64_t key = bytes_of(trace, LayerDataset::key), value = bytes_of(trace, LayerDataset::value);
  std::vector<char> out(static_cast<std::size_t>(key + value), 1);
  for (auto _ : state) {
    trace.read_stored(0, LayerDataset::key, out.data());
    trace.read_stored(0, LayerDataset::value, out.data() + key);
  }
  count_bytes(state, key + value);
}
BENCHMARK(ReadingStoredLayer)->Unit(benchmark::kMillisecond)->UseRealTime()->MinTime(2);

// The same in slices of one head, 32 MiB each, as a device takes them through pinned memory.
void ReadingStoredHeads(benchmark::State& state) {
  const Trace& trace = *sample().trace;
  const std::int64_t key = bytes_of(trace, LayerDataset::key);
  std::vector<char> out(static_cast<std::size_t>(key / 8), 1);
  for (auto _ : state)
    for (std::int64_t head = 0; head < 8; ++head) trace.read_stored(0, LayerDataset::key, out.data(), {head, head + 1});
  count_bytes(state, key);
}
BENCHMARK(ReadingStoredHeads)->Unit(benchmark::kMillisecond)->UseRealTime()->MinTime(2);

// The floor. What it reads are the file's first bytes, nearly all of them keys and values.
void ReadingPlainBytes(benchmark::State& state) {
  const Trace& trace = *sample().trace;
  const std::int64_t bytes = bytes_of(trace, LayerDataset::key) + bytes_of(trace, LayerDataset::value);
  std::vector<char> out(static_cast<std::size_t>(bytes), 1);
  const int file = open(trace.path().c_str(), O_RDONLY);
  const int threads = std::min(reading_threads, thread_count());
  const auto read_part = [&](int part) {
    constexpr std::int64_t piece = std::int64_t{2} << 20;
    for (std::int64_t at = bytes * part / threads, end = bytes * (part + 1) / threads; at < end; at += piece)
      if (pread(file, out.data() + at, static_cast<std::size_t>(std::min(piece, end - at)), at) < 0)
        state.SkipWithError("cannot be read");
  };
  for (auto _ : state) {
    std::vector<std::thread> others;
    for (int part = 1; part < threads; ++part) others.emplace_back(read_part, part);
    read_part(0);
    for (auto& other : others) other.join();
  }
  close(file);
  count_bytes(state, bytes);
}
BENCHMARK(ReadingPlainBytes)->Unit(benchmark::kMillisecond)->UseRealTime()->MinTime(2);

}  // namespace
}  // namespace kvreplay
