// Results files: when each token was evicted in each run, and the metrics (data/trace-format.md, "Results file").
//
// A replay goes layer by layer and writes many runs side by side, so that no more than one layer's results are in memory.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/tensor.h"
#include "core/trace/trace.h"

namespace kvreplay {

struct RunInfo {
  std::string policy;       // the full string that reproduces the run
  std::string preset;       // "restkv"
  std::string parameters;   // JSON object
  std::int64_t budget = 0;  // tokens per head per layer, window included
  std::string budget_text;  // as it was asked for: "256", "10%", "2MiB"
  // Of runs at equal bytes: the bytes that cache_bytes may take, and the tokens of every KV head that take as many; else 0.
  std::int64_t equal_bytes = 0, equal_bytes_tokens = 0;
  std::int64_t cache_bytes = 0, full_cache_bytes = 0, peak_cache_bytes = 0;
  std::string kept_sha256;  // of evicted_at as little-endian int32; empty where the file has summaries only
  // The file has neither evictions nor metrics of this run, only what stands here. Then also the hash, over layers and
  // stored heads, of how many prompt tokens are kept when the prompt ends and the CRC-32C of their positions.
  bool summary_only = false;
  std::string kept_prompt_sha256;
  const std::string& kept_hash() const { return summary_only ? kept_prompt_sha256 : kept_sha256; }
  std::string position_mode = "original";
  std::string granularity;  // "query_head", "kv_head" or "layer"
  std::string trace;        // path as given
  std::string trace_sha256;
  std::string backend = "cpu";
  std::string created_by;
  std::int64_t prompt_length = 0;  // where the eviction happened; 0: not known
  // What was asked for when it is not the whole trace's prompt that scores and all that follows that is judged: "score
  // context; judge generated", and the spans of the trace which that means.
  std::string scope;
  std::vector<TextSpan> score_spans, judge_spans;
  std::string edit;  // "restore 3:117": the run edit_of measured again with one token restored or dropped; else empty
  std::int64_t edit_of = -1;     // number of a run of this file
  std::int64_t early_steps = 0;  // how many steps NAME.early of the summary is over; 0: not known
  double seconds = 0;
  std::int64_t peak_bytes = 0;
  std::map<std::string, double> summary;  // mean of each metric (also NAME.early, NAME.late), cache_bytes, ...
  std::vector<std::string> notes;         // "nothing was evicted: ..." and other warnings
};

// One metric of one run: float32 values with the shape that data/metrics.md gives. axes: "layer", "query_head", "step",
// "region" in order.
struct MetricValues {
  std::vector<std::int64_t> shape;
  std::vector<std::string> axes;
  std::vector<std::string> region_names;  // for metrics with a region axis
  std::vector<float> values;              // row-major
};

// What a run will hold, given before its first layer.
struct RunLayout {
  std::int64_t layers = 0, heads = 0, tokens = 0, prompt_length = 0;  // heads: Hq, Hk or 1 by granularity
  bool scores = false;
  bool summary_only = false;  // no evicted_at, no scores, no metrics
  struct Metric {
    std::string name;
    std::vector<std::int64_t> shape;  // first axis: layers
    std::vector<std::string> axes;
    std::vector<std::string> region_names;
  };
  std::vector<Metric> metrics;
};

// One layer's evicted_at of a run in the form in which the file holds it.
struct EncodedEvictions {
  int run = -1;
  std::vector<std::vector<std::byte>> chunks;
};

class ResultsWriter {
 public:
  // Writes PATH.partial; finish() renames it. A writer destroyed without finish() removes PATH.partial.
  explicit ResultsWriter(const std::string& path);
  ~ResultsWriter();
  ResultsWriter(ResultsWriter&&) noexcept;

  // Runs are numbered in the order of these calls.
  int add_run(const RunLayout& layout);
  void write_evicted(int run, std::int64_t layer_index, TensorView<const std::int32_t, 2> evicted_at);  // [H, T]
  // The same in two parts. Most of the time goes into the first, which several threads may do at once, also while another
  // one writes.
  EncodedEvictions encode_evicted(int run, TensorView<const std::int32_t, 2> evicted_at) const;  // [H, T]
  void write_evicted(int run, std::int64_t layer_index, const EncodedEvictions& evicted);
  void write_scores(int run, std::int64_t layer_index, TensorView<const float, 2> scores);  // [H, P]
  void write_metric(int run, std::int64_t layer_index, const std::string& name, std::span<const float> values);
  void finish_run(int run, const RunInfo& info);
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

class Results {
 public:
  virtual ~Results() = default;
  virtual const std::string& path() const = 0;
  virtual int num_runs() const = 0;
  virtual const RunInfo& info(int run) const = 0;
  // Layers, heads and tokens of a run, whether or not its evictions are there.
  virtual std::array<std::int64_t, 3> shape(int run) const { return evicted_at(run).shape(); }  // [L, H, T]
  virtual std::vector<std::string> metric_names(int run) const = 0;
  virtual MetricValues metric(int run, const std::string& name) const = 0;
  // Throw Error where the file has summaries only (RunInfo::summary_only).
  virtual Tensor<std::int32_t, 3> evicted_at(int run) const = 0;                            // [L, H, T]
  virtual Tensor<std::int32_t, 2> evicted_at(int run, std::int64_t layer_index) const = 0;  // [H, T]
  virtual bool has_scores(int run) const = 0;
  virtual Tensor<float, 2> scores(int run, std::int64_t layer_index) const = 0;  // [H, P]
};

std::unique_ptr<Results> open_results(const std::string& path, Trust trust = Trust::automatic);

}  // namespace kvreplay
