// open_results: Results over a file.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/trace/results.h"
#include "core/trace/results_structure_internal.h"

namespace kvreplay {
namespace {

constexpr std::int64_t max_results_elements = std::int64_t{1} << 36;

class ResultsReader {
 public:
  ResultsReader(const Source& source, Problems& problems) : source_(source), problems_(problems) {}

  std::vector<RunStructure> read() {
    std::vector<RunStructure> runs;
    const std::string format = text("/", "format");
    if (format == "kvreplay-trace") {
      problem("/", "is a trace, not a results file", "`kvreplay replay` makes results from it");
      return runs;
    }
    if (format != "kvreplay-results") {
      problem("/",
              "is an HDF5 file, but not one of results: it has no attribute \"format\" with the value \"kvreplay-results\"",
              "`kvreplay replay` writes results");
      return runs;
    }
    if (const auto version = integer("/", "version"); version != 1 && version != 2) {
      problem("/", "has version " + std::to_string(version) + " of the results format; this program reads versions 1 and 2",
              "use a newer kvreplay");
      return runs;
    }
    if (source_.kind("/runs") != NodeKind::group) {
      problem("/runs", "is missing");
      return runs;
    }
    const auto names = source_.children("/runs");
    for (std::size_t i = 0; i < names.size(); ++i) {
      const std::string node = run_node(static_cast<int>(i));
      if (source_.kind(node) != NodeKind::group) {
        problem(node, "is missing: runs are numbered from 00000 without a gap");
        return runs;
      }
      runs.push_back(read_run(node));
    }
    return runs;
  }

 private:
  void problem(const std::string& node, const std::string& what, const std::string& remedy = {}) {
    problems_.push_back({node, what, remedy});
  }

  std::string text(const std::string& node, const std::string& name) {
    const auto value = source_.attribute(node, name);
    if (!value) return {};
    if (const auto* found = std::get_if<std::string>(&*value)) return *found;
    problem(node, "attribute \"" + name + "\" is not a string");
    return {};
  }

  std::int64_t integer(const std::string& node, const std::string& name) {
    const auto value = source_.attribute(node, name);
    if (!value) return 0;
    if (const auto* found = std::get_if<std::int64_t>(&*value)) return *found;
    problem(node, "attribute \"" + name + "\" is not an integer");
    return 0;
  }

  double number(const std::string& node, const std::string& name) {
    const auto value = source_.attribute(node, name);
    if (!value) return 0;
    if (const auto* found = std::get_if<double>(&*value)) return *found;
    if (const auto* found = std::get_if<std::int64_t>(&*value)) return static_cast<double>(*found);
    problem(node, "attribute \"" + name + "\" is not a number");
    return 0;
  }

  std::vector<std::string> texts(const std::string& node, const std::string& name) {
    const auto value = source_.attribute(node, name);
    if (!value) return {};
    if (const auto* found = std::get_if<std::vector<std::string>>(&*value)) return *found;
    if (const auto* one = std::get_if<std::string>(&*value)) return {*one};
    problem(node, "attribute \"" + name + "\" is not a list of strings");
    return {};
  }

  RunInfo read_info(const std::string& node) {
    RunInfo info;
    info.policy = text(node, "policy");
    if (info.policy.empty()) problem(node, "has no attribute \"policy\"");
    info.preset = text(node, "preset");
    info.parameters = text(node, "parameters");
    info.budget = integer(node, "budget");
    info.budget_text = text(node, "budget_text");
    info.equal_bytes = integer(node, "equal_bytes");
    info.equal_bytes_tokens = integer(node, "equal_bytes_tokens");
    info.cache_bytes = integer(node, "cache_bytes");
    info.full_cache_bytes = integer(node, "full_cache_bytes");
    info.peak_cache_bytes = integer(node, "peak_cache_bytes");
    info.summary_only = integer(node, "summary_only") == 1;
    info.kept_sha256 = text(node, "kept_sha256");
    info.kept_prompt_sha256 = text(node, "kept_prompt_sha256");
    info.position_mode = text(node, "position_mode");
    info.granularity = text(node, "granularity");
    info.trace = text(node, "trace");
    info.trace_sha256 = text(node, "trace_sha256");
    if (info.trace_sha256.empty()) info.trace_sha256 = text(node, "trace_id");
    info.backend = text(node, "backend");
    info.created_by = text(node, "created_by");
    info.prompt_length = integer(node, "prompt_length");
    info.scope = text(node, "scope");
    info.score_spans = spans(node, "score_spans");
    info.judge_spans = spans(node, "judge_spans");
    info.edit = text(node, "edit");
    if (!info.edit.empty()) info.edit_of = integer(node, "edit_of");
    info.early_steps = integer(node, "early_steps");
    info.seconds = number(node, "seconds");
    info.peak_bytes = integer(node, "peak_bytes");
    read_notes(node, info);
    const std::string summary = node + "/summary";
    if (source_.kind(summary) == NodeKind::group)
      for (const auto& name : source_.attribute_names(summary)) info.summary[name] = number(summary, name);
    return info;
  }

  std::vector<TextSpan> spans(const std::string& node, const std::string& name) {
    std::vector<TextSpan> found;
    const std::string written = text(node, name);
    if (written.empty()) return found;
    const auto list = nlohmann::json::parse(written, nullptr, false);
    const auto is_span = [](const nlohmann::json& span) {
      return span.is_object() && span.contains("start") && span["start"].is_number_integer() && span.contains("end") &&
             span["end"].is_number_integer() && span.contains("label") && span["label"].is_string();
    };
    if (!list.is_array() || !std::all_of(list.begin(), list.end(), is_span)) {
      problem(node, "attribute \"" + name + "\" is not a JSON list of spans");
      return found;
    }
    for (const auto& span : list)
      found.push_back({span["start"].get<int>(), span["end"].get<int>(), span["label"].get<std::string>()});
    return found;
  }

  void read_notes(const std::string& node, RunInfo& info) {
    const std::string notes = text(node, "notes");
    if (notes.empty()) return;
    const auto list = nlohmann::json::parse(notes, nullptr, false);
    if (!list.is_array()) return problem(node, "attribute \"notes\" is not a JSON list");
    for (const auto& note : list)
      if (note.is_string()) info.notes.push_back(note.get<std::string>());
  }

  std::optional<DatasetInfo> dataset(const std::string& node, StoredKind kind, std::size_t low_rank, std::size_t high_rank) {
    if (source_.kind(node) != NodeKind::dataset) {
      problem(node, "is missing");
      return std::nullopt;
    }
    DatasetInfo info = source_.dataset(node);
    std::string what = info.refusal;
    if (what.empty() && (info.type.kind != kind || info.type.size != 4))
      what = "is " + info.type.name() + ", not " + StoredType{kind, 4}.name();
    if (what.empty() && (info.shape.size() < low_rank || info.shape.size() > high_rank))
      what = "has a shape of another rank";
    if (what.empty() && info.elements() > max_results_elements) what = "has an impossible shape";
    if (what.empty()) return info;
    problem(node, what);
    return std::nullopt;
  }

  std::int64_t size(const std::string& node, const std::string& name) {
    const std::int64_t value = integer(node, name);
    if (value >= 1 && value < (std::int64_t{1} << 31)) return value;
    problem(node, "attribute \"" + name + "\" is " + std::to_string(value));
    return 0;
  }

  RunStructure read_run(const std::string& node) {
    RunStructure run;
    run.info = read_info(node);
    if (run.info.summary_only) {
      run.layers = size(node, "layers");
      run.heads = size(node, "heads");
      run.tokens = size(node, "tokens");
      return run;
    }
    const auto evicted = dataset(node + "/evicted_at", StoredKind::signed_integer, 3, 3);
    if (!evicted) return run;
    run.layers = evicted->shape[0];
    run.heads = evicted->shape[1];
    run.tokens = evicted->shape[2];
    if (run.layers < 1 || run.heads < 1 || run.tokens < 1) problem(node + "/evicted_at", "is empty");
    if (source_.kind(node + "/scores") != NodeKind::absent) {
      const auto scores = dataset(node + "/scores", StoredKind::floating, 3, 3);
      if (scores && (scores->shape[0] != run.layers || scores->shape[1] != run.heads || scores->shape[2] > run.tokens))
        problem(node + "/scores", "has another shape than its evicted_at");
      else if (scores)
        run.has_scores = true, run.prompt_length = scores->shape[2];
    }
    if (source_.kind(node + "/metrics") == NodeKind::group)
      for (const auto& name : source_.children(node + "/metrics")) read_metric(node + "/metrics/" + name, name, run);
    return run;
  }

  void read_metric(const std::string& node, const std::string& name, RunStructure& run) {
    const auto info = dataset(node, StoredKind::floating, 1, 4);
    if (!info) return;
    if (info->shape[0] != run.layers)
      return problem(node,
                     "has " + std::to_string(info->shape[0]) + " layers where evicted_at has " + std::to_string(run.layers));
    RunStructure::Metric metric{name, info->shape, texts(node, "axes"), texts(node, "regions")};
    if (!metric.axes.empty() && metric.axes.size() != metric.shape.size())
      return problem(node, "names another number of axes than it has");
    run.metrics.push_back(std::move(metric));
  }

  const Source& source_;
  Problems& problems_;
};

class FileResults final : public Results {
 public:
  FileResults(const std::string& path, Trust trust) : source_(open_source(path, trust)) {
    Problems problems;
    runs_ = read_results_structure(*source_, problems);
    if (problems.empty()) return;
    const Problem& first = problems.front();
    throw Error(first.node == "/" ? path : path + ":" + first.node, first.what, first.remedy);
  }

  const std::string& path() const override { return source_->path(); }
  int num_runs() const override { return static_cast<int>(runs_.size()); }
  const RunInfo& info(int run) const override { return at(run).info; }

  std::array<std::int64_t, 3> shape(int run) const override {
    const RunStructure& r = at(run);
    return {r.layers, r.heads, r.tokens};
  }

  std::vector<std::string> metric_names(int run) const override {
    std::vector<std::string> names;
    for (const auto& metric : at(run).metrics) names.push_back(metric.name);
    return names;
  }

  MetricValues metric(int run, const std::string& name) const override {
    const auto& metrics = at(run).metrics;
    const auto found = std::find_if(metrics.begin(), metrics.end(), [&](const auto& m) { return m.name == name; });
    if (found == metrics.end())
      throw Error(path() + ":" + run_node(run) + "/metrics/" + name, "is not in this file",
                  "`kvreplay replay --metrics` chooses what is measured");
    MetricValues values{found->shape, found->axes, found->region_names, {}};
    std::int64_t count = 1;
    for (const auto n : values.shape) count *= n;
    values.values.resize(static_cast<std::size_t>(count));
    const std::vector<std::int64_t> start(values.shape.size(), 0);
    source_->read_into(run_node(run) + "/metrics/" + name, start, values.shape, values.values.data());
    return values;
  }

  Tensor<std::int32_t, 3> evicted_at(int run) const override {
    const RunStructure& r = with_evictions(run);
    Tensor<std::int32_t, 3> values({r.layers, r.heads, r.tokens});
    const std::array<std::int64_t, 3> start{};
    source_->read_into(run_node(run) + "/evicted_at", start, values.shape(), values.data());
    return values;
  }

  Tensor<std::int32_t, 2> evicted_at(int run, std::int64_t layer_index) const override {
    const RunStructure& r = with_evictions(run);
    Tensor<std::int32_t, 2> values({r.heads, r.tokens});
    read_layer(run, "/evicted_at", layer_index, {1, r.heads, r.tokens}, values.data());
    return values;
  }

  bool has_scores(int run) const override { return at(run).has_scores; }

  Tensor<float, 2> scores(int run, std::int64_t layer_index) const override {
    const RunStructure& r = at(run);
    if (!r.has_scores)
      throw Error(path() + ":" + run_node(run) + "/scores", "is not in this file", "`kvreplay replay --scores` writes it");
    Tensor<float, 2> values({r.heads, r.prompt_length});
    read_layer(run, "/scores", layer_index, {1, r.heads, r.prompt_length}, values.data());
    return values;
  }

 private:
  const RunStructure& at(int run) const {
    if (run < 0 || run >= num_runs()) throw Error(path(), "has no run " + std::to_string(run));
    return runs_[static_cast<std::size_t>(run)];
  }

  const RunStructure& with_evictions(int run) const {
    const RunStructure& r = at(run);
    if (r.info.summary_only)
      throw Error(path() + ":" + run_node(run) + "/evicted_at", "is not in this file, which has summaries only",
                  "`kvreplay replay` without --summary-only writes it");
    return r;
  }

  void read_layer(int run, const char* name, std::int64_t layer_index, const std::array<std::int64_t, 3>& count,
                  void* target) const {
    if (layer_index < 0 || layer_index >= at(run).layers)
      throw Error(path() + ":" + run_node(run) + name, "has no layer " + std::to_string(layer_index));
    const std::array<std::int64_t, 3> start = {layer_index, 0, 0};
    source_->read_into(run_node(run) + name, start, count, target);
  }

  std::unique_ptr<Source> source_;
  std::vector<RunStructure> runs_;
};

}  // namespace

std::string run_node(int run) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "/runs/%05d", run);
  return text.data();
}

std::vector<RunStructure> read_results_structure(const Source& source, Problems& problems) {
  return ResultsReader(source, problems).read();
}

std::unique_ptr<Results> open_results(const std::string& path, Trust trust) {
  return std::make_unique<FileResults>(path, trust);
}

}  // namespace kvreplay
