#include "core/replay/replay.h"

#include <sys/resource.h>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "core/base/sha256.h"
#include "core/base/text.h"
#include "core/base/version.h"
#include "core/policy/layer_workspace.h"

namespace kvreplay {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::int64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

struct MeanOf {
  double total = 0;
  std::int64_t count = 0;
  double mean() const { return count > 0 ? total / static_cast<double>(count) : 0; }
};

// Means for the summary are kept per layer and query head, so that several threads add to none but their own.
struct MetricTotals {
  std::vector<MeanOf> cells;  // [heads · regions]
  std::int64_t not_finite = 0;
};

// One policy at one budget.
struct Run {
  const PolicySpec* spec = nullptr;
  std::unique_ptr<Policy> policy;
  std::int64_t budget = 0;
  int index = -1;  // in the results file
  RunInfo info;
  Sha256 hash;
  std::int64_t evicted_tokens = 0;
  bool head_emptied = false;
  std::vector<std::int64_t> held_at_step;  // stored rows visible at each step, over layers and stored heads
  std::vector<MetricTotals> totals;        // by metric
};

// Fills the metric values of one layer of a batch of runs, and adds to the runs' totals.
class MetricSink final : public EvaluationSink {
 public:
  MetricSink(std::vector<Run*> runs, const std::vector<const Metric*>& metrics, std::int64_t query_heads, std::int64_t steps)
      : runs_(std::move(runs)), metrics_(metrics), query_heads_(query_heads), steps_(steps) {
    values_.resize(runs_.size());
    for (auto& run : values_)
      for (const Metric* metric : metrics_)
        run.emplace_back(static_cast<std::size_t>(size_of(*metric)), std::numeric_limits<float>::quiet_NaN());
  }

  void head(std::size_t run, int query_head, std::int64_t step, const HeadStep& values) override {
    if (!values.recorded) return;
    for (std::size_t m = 0; m < metrics_.size(); ++m) {
      const Metric& metric = *metrics_[m];
      const auto& axes = metric.info().axes;
      if (axes.size() < 3) continue;
      const std::int64_t width = axes.size() == 4 ? num_regions : 1;
      const std::span<float> out(values_[run][m].data() + (query_head * steps_ + step) * width,
                                 static_cast<std::size_t>(width));
      metric.head_step(values, out);
      if (metric.counts(values))
        for (std::int64_t r = 0; r < width; ++r) add(run, m, query_head * width + r, out[static_cast<std::size_t>(r)]);
    }
  }

  void layer(std::size_t run, std::int64_t step, const LayerStep& values) override {
    if (!values.recorded) return;
    for (std::size_t m = 0; m < metrics_.size(); ++m) {
      const auto& axes = metrics_[m]->info().axes;
      if (axes.back() != "step" || axes.size() != 2) continue;
      const float value = metrics_[m]->layer_step(values);
      values_[run][m][static_cast<std::size_t>(step)] = value;
      add(run, m, 0, value);
    }
  }

  void sequences(const Trace& trace, const std::vector<TextSpan>& evidence, std::size_t run,
                 TensorView<const std::int32_t, 2> evicted_at) {
    for (std::size_t m = 0; m < metrics_.size(); ++m) {
      if (metrics_[m]->info().axes.back() != "query_head") continue;
      for (std::int64_t q = 0; q < query_heads_; ++q) {
        const float value =
            metrics_[m]->head_sequence({trace, evicted_at[q * evicted_at.dim(0) / query_heads_].flat(), evidence});
        values_[run][m][static_cast<std::size_t>(q)] = value;
        add(run, m, q, value);
      }
    }
  }

  const std::vector<float>& values(std::size_t run, std::size_t metric) const { return values_[run][metric]; }

 private:
  std::int64_t size_of(const Metric& metric) const {
    std::int64_t size = 1;
    for (const auto& axis : metric.info().axes)
      size *= axis == "query_head" ? query_heads_ : axis == "step" ? steps_ : axis == "region" ? num_regions : 1;
    return size;
  }

  void add(std::size_t run, std::size_t metric, std::int64_t cell, float value) {
    MetricTotals& totals = runs_[run]->totals[metric];
    MeanOf& mean = totals.cells[static_cast<std::size_t>(cell)];
    mean.total += value;
    ++mean.count;
  }

  std::vector<Run*> runs_;
  const std::vector<const Metric*>& metrics_;
  std::int64_t query_heads_, steps_;
  std::vector<std::vector<std::vector<float>>> values_;  // [run][metric][one layer's values]
};

class Replay {
 public:
  Replay(const Trace& trace, const ReplayRequest& request, Backend& backend, ResultsWriter& results, Job& job)
      : trace_(trace),
        request_(request),
        backend_(backend),
        results_(results),
        job_(job),
        model_(trace.model()),
        identity_(trace.identity()) {
    choose_evidence();
    choose_metrics();
    for (const PolicySpec& spec : request.policies)
      for (const Budget& budget : request.budgets) add_run(spec, budget);
  }

  std::vector<RunInfo> run() {
    const auto& layers = trace_.layers();
    const std::size_t batch = runs_in_a_batch();
    job_.begin("replaying " + trace_.path(), static_cast<double>(layers.size() * runs_.size()), "layer runs");
    const auto across_layers = std::make_shared<SharedValues>();
    for (std::size_t l = 0; l < layers.size(); ++l) {
      const auto layer_started = Clock::now();
      LayerWorkspace workspace(trace_, layers[l], backend_, request_.scores, across_layers);
      const double loading = seconds_since(layer_started) / static_cast<double>(runs_.size());
      for (std::size_t first = 0; first < runs_.size(); first += batch) {
        const std::size_t end = std::min(runs_.size(), first + batch);
        replay_batch(workspace, static_cast<std::int64_t>(l), first, end);
        for (std::size_t r = first; r < end; ++r) runs_[r].info.seconds += loading;
      }
    }
    job_.end();
    std::vector<RunInfo> infos;
    for (Run& run : runs_) infos.push_back(finish(run));
    return infos;
  }

 private:
  void choose_evidence() {
    const std::vector<std::string> labels =
        request_.evidence_labels.empty() ? std::vector<std::string>{"needle", "evidence"} : request_.evidence_labels;
    for (const TextSpan& span : trace_.spans())
      if (std::find(labels.begin(), labels.end(), span.label) != labels.end()) evidence_.push_back(span);
  }

  void choose_metrics() {
    for (const Metric* metric : request_.all_metrics ? metric_registry() : request_.metrics) {
      const std::string missing = metric->missing(trace_, evidence_);
      if (missing.empty()) {
        metrics_.push_back(metric);
        const EvaluationRequest needs = metric->needs();
        needs_.outputs |= needs.outputs;
        needs_.single_removals |= needs.single_removals;
        needs_.overlap |= needs.overlap;
        needs_.regions |= needs.regions;
        needs_.entropy |= needs.entropy;
      } else if (!request_.all_metrics) {
        throw Error(trace_.path(), "metric " + metric->info().name + " cannot be computed: " + missing);
      }
    }
  }

  void add_run(const PolicySpec& spec, const Budget& budget) {
    Run run;
    run.spec = &spec;
    run.policy = make_policy(spec);
    const Granularity granularity = run.policy->granularity();
    run.budget = budget.resolve(trace_, granularity);
    if (const std::int64_t fixed = run.policy->fixed_budget(); fixed > 0 && fixed != run.budget) {
      note(run, "sizes written in the policy ask for " + std::to_string(fixed) + " tokens; they win over the budget of " +
                    std::to_string(run.budget));
      run.budget = fixed;
    }
    if (run.budget < trace_.prompt_length() && run.budget < run.policy->minimum_budget())
      throw Error("--budget",
                  "\"" + budget.text + "\" is " + std::to_string(run.budget) + " tokens, but " + spec.label() +
                      " always keeps " + std::to_string(run.policy->minimum_budget()),
                  "ask for at least that many");
    run.held_at_step.assign(static_cast<std::size_t>(trace_.num_decode_steps()) + 1, 0);
    for (const Metric* metric : metrics_) {
      const auto& axes = metric->info().axes;
      const auto heads = std::find(axes.begin(), axes.end(), "query_head") != axes.end() ? model_.num_query_heads : 1;
      run.totals.push_back(
          {std::vector<MeanOf>(static_cast<std::size_t>(heads * (axes.back() == "region" ? num_regions : 1))), 0});
    }

    RunLayout layout;
    layout.layers = static_cast<std::int64_t>(trace_.layers().size());
    layout.heads = granularity_heads(granularity, model_);
    layout.tokens = trace_.num_tokens();
    layout.prompt_length = trace_.prompt_length();
    layout.scores = request_.scores;
    for (const Metric* metric : metrics_) {
      RunLayout::Metric shape{metric->info().name, {}, metric->info().axes, {}};
      for (const auto& axis : shape.axes)
        shape.shape.push_back(axis == "layer"        ? layout.layers
                              : axis == "query_head" ? model_.num_query_heads
                              : axis == "step"       ? trace_.num_decode_steps()
                                                     : num_regions);
      if (shape.axes.back() == "region") shape.region_names.assign(region_names.begin(), region_names.end());
      layout.metrics.push_back(std::move(shape));
    }
    run.index = results_.add_run(layout);
    runs_.push_back(std::move(run));
  }

  // Evictions and outputs of a batch stay below what one layer's tensors take, or a few megabytes for small traces.
  std::size_t runs_in_a_batch() const {
    const std::int64_t each =
        trace_.num_tokens() * model_.num_query_heads * static_cast<std::int64_t>(sizeof(std::int32_t)) +
        trace_.num_decode_steps() * model_.num_query_heads * (model_.head_dim + 32) *
            static_cast<std::int64_t>(sizeof(float));
    const std::int64_t room = std::max<std::int64_t>(8 << 20, trace_.layer_bytes(trace_.layers().front()) / 2);
    return static_cast<std::size_t>(std::max<std::int64_t>(1, room / std::max<std::int64_t>(1, each)));
  }

  void replay_batch(LayerWorkspace& workspace, std::int64_t layer_index, std::size_t first, std::size_t end) {
    std::vector<LayerEvictions> evictions;
    std::vector<RunEvictions> views;
    std::vector<Run*> batch;
    for (std::size_t r = first; r < end; ++r) {
      job_.check();
      const auto started = Clock::now();
      Run& run = runs_[r];
      // Policies whose layer shows no more than the budget evict nothing, whatever they protect: they check that first.
      evictions.push_back(run.policy->evict(workspace, run.budget));
      batch.push_back(&run);
      run.info.seconds += seconds_since(started);
      job_.advance_to(static_cast<double>(layer_index) * static_cast<double>(runs_.size()) + static_cast<double>(r) + 0.5);
    }
    for (const auto& eviction : evictions) views.push_back({eviction.evicted_at.view()});

    const auto started = Clock::now();
    MetricSink sink(batch, metrics_, model_.num_query_heads, trace_.num_decode_steps());
    if (!metrics_.empty()) backend_.evaluate(workspace.loaded(), views, needs_, sink);
    const double share = seconds_since(started) / static_cast<double>(batch.size());
    for (std::size_t i = 0; i < batch.size(); ++i) {
      Run& run = *batch[i];
      run.info.seconds += share;
      sink.sequences(trace_, evidence_, i, views[i].evicted_at);
      results_.write_evicted(run.index, layer_index, views[i].evicted_at);
      if (request_.scores) write_scores(run, layer_index, evictions[i]);
      for (std::size_t m = 0; m < metrics_.size(); ++m) {
        const std::vector<float>& values = sink.values(i, m);
        run.totals[m].not_finite += count_not_finite(*metrics_[m], values);
        results_.write_metric(run.index, layer_index, metrics_[m]->info().name, values);
      }
      account(workspace, run, views[i].evicted_at);
    }
    job_.advance_to(static_cast<double>(layer_index) * static_cast<double>(runs_.size()) + static_cast<double>(end));
  }

  void write_scores(Run& run, std::int64_t layer_index, const LayerEvictions& evictions) {
    if (!evictions.scores.empty()) {
      results_.write_scores(run.index, layer_index, evictions.scores);
      return;
    }
    const Tensor<float, 2> none({evictions.evicted_at.dim(0), trace_.prompt_length()},
                                std::numeric_limits<float>::quiet_NaN());
    results_.write_scores(run.index, layer_index, none);
  }

  // NaN stands for queries that were not recorded; those are no fault.
  std::int64_t count_not_finite(const Metric& metric, const std::vector<float>& values) const {
    const auto& axes = metric.info().axes;
    const std::int64_t steps = trace_.num_decode_steps(), width = axes.back() == "region" ? num_regions : 1;
    const bool by_step = std::find(axes.begin(), axes.end(), "step") != axes.end();
    const auto& positions = trace_.query_positions();
    std::int64_t count = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isfinite(values[i])) continue;
      const auto position = static_cast<std::int32_t>(trace_.prompt_length() + static_cast<std::int64_t>(i) / width %
                                                                                   std::max<std::int64_t>(1, steps));
      if (!by_step || std::binary_search(positions.begin(), positions.end(), position)) ++count;
    }
    return count;
  }

  // Bytes held after the prompt and at each step, the hash, and signs of a policy that did nothing or too much.
  void account(const LayerWorkspace& workspace, Run& run, TensorView<const std::int32_t, 2> evicted_at) {
    run.hash.update(evicted_at.data(), static_cast<std::size_t>(evicted_at.size()) * sizeof(std::int32_t));
    const std::int64_t heads = evicted_at.dim(0), prompt = trace_.prompt_length(), steps = trace_.num_decode_steps();
    const std::int64_t rows =
        stored_heads(run.policy->granularity(), model_) / heads;  // a layer's one set is stored for every KV head
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int32_t* row = evicted_at[h].data();
      std::int64_t kept = 0;
      for (std::int64_t i = workspace.first_candidate(); i < prompt; ++i) {
        kept += row[i] != 0 ? 1 : 0;
        run.evicted_tokens += row[i] != -1 ? 1 : 0;
      }
      for (std::int64_t i = prompt; i < trace_.num_tokens(); ++i) run.evicted_tokens += row[i] != -1 ? 1 : 0;
      if (kept == 0 && workspace.candidates() > 0) run.head_emptied = true;
      run.held_at_step[0] += rows * kept;
      if (steps > 0) add_held(workspace, row, rows, run.held_at_step);
    }
  }

  void add_held(const LayerWorkspace& workspace, const std::int32_t* row, std::int64_t rows,
                std::vector<std::int64_t>& held) const {
    // A token is held from its own step (or from the start) up to the step after which it is evicted, as far as the
    // sliding window shows it: +1 where it enters, -1 after its last step.
    const std::int64_t prompt = trace_.prompt_length(), steps = trace_.num_decode_steps();
    const int window = workspace.loaded().sliding_window;
    std::vector<std::int64_t> change(static_cast<std::size_t>(steps) + 2, 0);
    for (std::int64_t i = workspace.first_candidate(); i < trace_.num_tokens(); ++i) {
      const std::int64_t first = std::max<std::int64_t>(1, i - prompt + 1);
      std::int64_t last = row[i] < 0 ? steps : std::max<std::int64_t>(row[i], i >= prompt ? first : 0);
      if (window > 0) last = std::min(last, i + window - prompt);
      if (last < first) continue;
      ++change[static_cast<std::size_t>(first)];
      --change[static_cast<std::size_t>(std::min(last, steps)) + 1];
    }
    std::int64_t now = 0;
    for (std::int64_t s = 1; s <= steps; ++s)
      held[static_cast<std::size_t>(s)] += rows * (now += change[static_cast<std::size_t>(s)]);
  }

  void note(Run& run, const std::string& text) {
    run.info.notes.push_back(text);
    job_.warn((run.spec->label() + " at " + std::to_string(run.budget) + " tokens: ").append(text));
  }

  RunInfo finish(Run& run) {
    RunInfo& info = run.info;
    const std::int64_t each = token_bytes(trace_);
    std::int64_t full_tokens = 0;
    for (const int layer : trace_.layers()) {
      const std::int64_t window = trace_.sliding_window(layer);
      full_tokens += window > 0 ? std::min<std::int64_t>(window, trace_.prompt_length()) : trace_.prompt_length();
    }
    info.policy = run.spec->text();
    info.preset = run.spec->description->name;
    info.parameters = run.spec->parameters_json();
    info.budget = run.budget;
    info.cache_bytes = run.held_at_step[0] * each;
    info.full_cache_bytes = full_tokens * model_.num_kv_heads * each;
    info.peak_cache_bytes =
        (run.held_at_step.size() > 1 ? *std::max_element(run.held_at_step.begin() + 1, run.held_at_step.end())
                                     : run.held_at_step[0]) *
        each;
    info.kept_sha256 = run.hash.hex();
    info.granularity = granularity_name(run.policy->granularity());
    info.trace = trace_.path();
    info.trace_sha256 = identity_;
    info.backend = backend_.name();
    info.created_by = program_version();
    info.peak_bytes = peak_resident_bytes();
    if (run.evicted_tokens == 0 && info.preset != "full")
      note(run, run.budget >= trace_.prompt_length() ? "nothing was evicted: the budget holds the whole prompt of " +
                                                           std::to_string(trace_.prompt_length()) + " tokens"
                                                     : std::string("nothing was evicted"));
    if (run.head_emptied) note(run, "at least one head kept no prompt token at all");
    summarise(run);
    results_.finish_run(run.index, info);
    return info;
  }

  void summarise(Run& run) {
    RunInfo& info = run.info;
    std::int64_t not_finite = 0;
    for (std::size_t m = 0; m < metrics_.size(); ++m) {
      const MetricInfo& metric = metrics_[m]->info();
      const std::size_t regions = metric.axes.back() == "region" ? num_regions : 1;
      MeanOf all;
      std::vector<MeanOf> by_region(regions);
      for (std::size_t cell = 0; cell < run.totals[m].cells.size(); ++cell) {
        const MeanOf& part = run.totals[m].cells[cell];
        all.total += part.total;
        all.count += part.count;
        by_region[cell % regions].total += part.total;
        by_region[cell % regions].count += part.count;
      }
      // Without a step, or with nothing evicted, there is nothing to average: no mean is better than a 0.
      if (all.count > 0) info.summary[metric.name] = all.mean();
      if (all.count > 0 && regions > 1)
        for (std::size_t r = 0; r < regions; ++r) info.summary[metric.name + "." + region_names[r]] = by_region[r].mean();
      not_finite += run.totals[m].not_finite;
    }
    info.summary["cache_bytes"] = static_cast<double>(info.cache_bytes);
    info.summary["full_cache_bytes"] = static_cast<double>(info.full_cache_bytes);
    info.summary["not_finite"] = static_cast<double>(not_finite);
    info.summary["evicted_tokens"] = static_cast<double>(run.evicted_tokens);
    if (not_finite > 0) note(run, std::to_string(not_finite) + " metric values are NaN or infinite");
  }

  const Trace& trace_;
  const ReplayRequest& request_;
  Backend& backend_;
  ResultsWriter& results_;
  Job& job_;
  const ModelInfo& model_;
  const std::string identity_;
  std::vector<TextSpan> evidence_;
  std::vector<const Metric*> metrics_;
  EvaluationRequest needs_{false, false, false, false, false};
  std::vector<Run> runs_;
};

}  // namespace

std::vector<RunInfo> replay(const Trace& trace, const ReplayRequest& request, Backend& backend, ResultsWriter& results,
                            Job& job) {
  return Replay(trace, request, backend, results, job).run();
}

}  // namespace kvreplay
