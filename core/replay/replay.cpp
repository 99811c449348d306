#include "core/replay/replay.h"

#include <sys/resource.h>
#include <algorithm>
#include <chrono>
#include <limits>

#include "core/base/text.h"
#include "core/base/version.h"
#include "core/policy/layer_workspace.h"
#include "core/replay/cache_account_internal.h"
#include "core/replay/edit_internal.h"
#include "core/replay/equal_bytes_internal.h"
#include "core/replay/metric_sink_internal.h"
#include "core/replay/scope_internal.h"
#include "core/replay/stability_internal.h"

namespace kvreplay {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::int64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

// One policy at one budget.
struct Run {
  const PolicySpec* spec = nullptr;
  std::unique_ptr<Policy> policy;
  std::int64_t budget = 0;
  int index = -1;  // in the results file
  RunInfo info;
  CacheAccount account;
  std::vector<MetricTotals> totals;  // by metric
  const TokenEdit* edit = nullptr;   // of the request: this run is runs_[base] with one token changed
  std::size_t base = 0;
  std::int64_t changed = 0;                // rows in which the edit changed something
  std::vector<LayerErrors> errors = {};    // by layer index, where runs with edits are compared
  std::unique_ptr<Policy> half = nullptr;  // the policy in half precision, where its stability is asked for
  KeptOverlap overlap = {};
};

class Replay {
 public:
  Replay(const Trace& trace, const ReplayScope& scope, const ReplayRequest& request, Backend& backend,
         ResultsWriter& results, Job& job)
      : trace_(trace),
        request_(request),
        backend_(backend),
        results_(results),
        job_(job),
        model_(trace.model()),
        identity_(trace.identity()),
        scope_(scope),
        steps_{trace.num_decode_steps(), request.early_steps, scope.judged} {
    choose_evidence();
    choose_metrics();
    if (request.equal_bytes) {
      add_runs_of_equal_bytes();
    } else {
      for (const PolicySpec& spec : request.policies)
        for (const Budget& budget : request.budgets) add_run(spec, budget);
    }
  }

  std::vector<RunInfo> run() {
    const auto& layers = trace_.layers();
    const std::size_t batch = runs_in_a_batch();
    job_.begin("replaying " + trace_.path(), static_cast<double>(layers.size() * runs_.size()), "layer runs");
    for (std::size_t l = 0; l < layers.size(); ++l) {
      const auto layer_started = Clock::now();
      LayerWorkspace workspace(trace_, layers[l], backend_, request_.scores, across_layers_);
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

  Run new_run(const PolicySpec& spec, const std::string& budget_text) const {
    auto policy = make_policy(spec);
    CacheAccount account(trace_, policy->granularity());
    Run run{&spec, std::move(policy), 0, -1, {}, std::move(account), {}};
    run.info.budget_text = budget_text;
    if (request_.stability) run.half = half_precision_form(spec);
    return run;
  }

  void add_run(const PolicySpec& spec, const Budget& budget) {
    Run run = new_run(spec, budget.text);
    run.budget = budget.resolve(trace_, run.policy->granularity());
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
    add(std::move(run));
  }

  void add_runs_of_equal_bytes() {
    std::vector<std::int64_t> tokens, goals;
    for (const Budget& budget : request_.budgets) {
      tokens.push_back(budget.resolve(trace_, Granularity::kv_head));
      goals.push_back(budget.kind == Budget::Kind::bytes ? static_cast<std::int64_t>(budget.value)
                                                         : uniform_cache_bytes(trace_, tokens.back()));
    }
    std::vector<std::unique_ptr<Policy>> policies;
    std::vector<const Policy*> searched;
    for (const PolicySpec& spec : request_.policies) {
      policies.push_back(make_policy(spec));
      if (!keeps_everything(spec)) searched.push_back(policies.back().get());
    }
    const auto found = equal_bytes_budgets(trace_, searched, goals, backend_, across_layers_, job_);
    std::vector<std::string> refusals;
    auto next = found.begin();
    for (const PolicySpec& spec : request_.policies) {
      const bool everything = keeps_everything(spec);
      for (std::size_t b = 0; b < goals.size(); ++b) {
        Run run = new_run(spec, request_.budgets[b].text);
        run.info.equal_bytes = goals[b];
        run.info.equal_bytes_tokens = tokens[b];
        run.budget = everything ? tokens[b] : (*next)[b].budget;
        if (run.budget > 0) {
          add(std::move(run));
          continue;
        }
        refusals.push_back(spec.label() + " takes at least " + std::to_string((*next)[b].cache_bytes) + " bytes, and \"" +
                           request_.budgets[b].text + "\" is " + std::to_string(goals[b]));
      }
      if (!everything) ++next;
    }
    if (runs_.empty()) throw Error("--equal-bytes", refusals.front(), "ask for more, or protect less (a smaller window)");
    for (const auto& refusal : refusals) job_.warn("--equal-bytes: " + refusal + ": it has no run there");
  }

  static bool keeps_everything(const PolicySpec& spec) { return spec.description->keeps_everything; }

  void add(Run run) {
    const std::size_t base = runs_.size();
    enlist(std::move(run));
    for (const TokenEdit& edit : request_.edits) {
      // The full cache has nothing to restore.
      if (edit.kind == TokenEdit::Kind::drop || !keeps_everything(*runs_[base].spec)) add_edited(base, edit);
    }
  }

  void add_edited(std::size_t base, const TokenEdit& edit) {
    Run run = new_run(*runs_[base].spec, runs_[base].info.budget_text);
    check_edit(edit, trace_, *run.policy, run.spec->label());
    const RunInfo& plain = runs_[base].info;
    run.budget = runs_[base].budget;
    run.edit = &edit;
    run.base = base;
    run.info.equal_bytes = plain.equal_bytes;
    run.info.equal_bytes_tokens = plain.equal_bytes_tokens;
    run.info.edit = edit.text();
    run.info.edit_of = runs_[base].index;
    enlist(std::move(run));
  }

  void enlist(Run run) {
    if (request_.worth > 0 && run.policy->changes_rows())
      throw Error("--worth", run.spec->label() + " changes keys or values beside evicting, so no token returns as it was",
                  "leave the policy out, or --worth");
    for (const Metric* metric : metrics_) run.totals.emplace_back(*metric, model_.num_query_heads);
    run.index = results_.add_run(layout_of(*run.policy));
    runs_.push_back(std::move(run));
  }

  RunLayout layout_of(const Policy& policy) const {
    RunLayout layout;
    layout.layers = static_cast<std::int64_t>(trace_.layers().size());
    layout.heads = granularity_heads(policy.granularity(), model_);
    layout.tokens = trace_.num_tokens();
    layout.prompt_length = trace_.prompt_length();
    layout.scores = request_.scores;
    for (const Metric* metric : metrics_) {
      if (!is_measured(policy, *metric)) continue;
      RunLayout::Metric shape{metric->info().name, {}, metric->info().axes, {}};
      for (const auto& axis : shape.axes)
        shape.shape.push_back(axis == "layer"        ? layout.layers
                              : axis == "query_head" ? model_.num_query_heads
                              : axis == "step"       ? trace_.num_decode_steps()
                                                     : num_regions);
      if (shape.axes.back() == "region") shape.region_names.assign(region_names.begin(), region_names.end());
      layout.metrics.push_back(std::move(shape));
    }
    return layout;
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
    std::vector<std::vector<MetricTotals>*> totals;
    for (std::size_t r = first; r < end; ++r) {
      job_.check();
      const auto started = Clock::now();
      Run& run = runs_[r];
      // Policies whose layer shows no more than the budget evict nothing, whatever they protect: they check that first.
      evictions.push_back(evict(workspace, run, evictions, first));
      for (const std::string& remark : workspace.take_remarks())
        if (const auto& notes = run.info.notes; std::find(notes.begin(), notes.end(), remark) == notes.end())
          note(run, remark);
      run.info.seconds += seconds_since(started);
      if (run.half != nullptr && run.edit == nullptr) {
        run.overlap.add_layer(workspace.loaded(), evictions.back().evicted_at,
                              run.half->evict(workspace, run.budget).evicted_at);
        workspace.take_remarks();  // nothing that the policy itself did not say
      }
      batch.push_back(&run);
      totals.push_back(&run.totals);
      job_.advance_to(static_cast<double>(layer_index) * static_cast<double>(runs_.size()) + static_cast<double>(r) + 0.5);
    }
    for (const auto& eviction : evictions) views.push_back({eviction.evicted_at.view(), &eviction.changes});

    const auto started = Clock::now();
    MetricSink sink(std::move(totals), metrics_, model_.num_query_heads, steps_);
    if (!metrics_.empty()) backend_.evaluate(workspace.loaded(), views, needs_, sink);
    const double share = seconds_since(started) / static_cast<double>(batch.size());
    for (std::size_t i = 0; i < batch.size(); ++i) {
      Run& run = *batch[i];
      run.info.seconds += share;
      sink.sequences(trace_, evidence_, i, views[i].evicted_at);
      results_.write_evicted(run.index, layer_index, views[i].evicted_at);
      if (request_.scores) write_scores(run, layer_index, evictions[i]);
      sink.count_not_finite(trace_, i);
      for (std::size_t m = 0; m < metrics_.size(); ++m)
        if (is_measured(*run.policy, *metrics_[m]))
          results_.write_metric(run.index, layer_index, metrics_[m]->info().name, sink.values(i, m));
      run.account.add_layer(workspace.loaded(), views[i].evicted_at);
      if (!request_.edits.empty()) run.errors.push_back(layer_errors(metrics_, sink, i, steps_.count));
      if (request_.worth > 0 && run.edit == nullptr)
        for (const TokenWorth& worth : most_worth_restoring(workspace, views[i].evicted_at, steps_.measured, request_.worth))
          request_.on_worth(run.index, worth);
    }
    job_.advance_to(static_cast<double>(layer_index) * static_cast<double>(runs_.size()) + static_cast<double>(end));
  }

  // `done`: what the runs of the batch before this one did, from run `first` on.
  LayerEvictions evict(LayerWorkspace& workspace, Run& run, const std::vector<LayerEvictions>& done, std::size_t first) {
    if (run.edit == nullptr || run.base < first) {
      LayerEvictions evictions = run.policy->evict(workspace, run.budget);
      if (run.edit != nullptr) apply_edit(workspace, run, evictions);
      return evictions;
    }
    LayerEvictions evictions = done[run.base - first];
    apply_edit(workspace, run, evictions);
    return evictions;
  }

  static void apply_edit(const LayerWorkspace& workspace, Run& run, LayerEvictions& evictions) {
    if (run.edit->touches(workspace.layer())) run.changed += run.edit->apply(workspace.loaded(), evictions.evicted_at);
  }

  // Identities of rows as recorded are absent where the policy merges or turns rows.
  static bool is_measured(const Policy& policy, const Metric& metric) {
    return !(metric.info().unchanged_rows && policy.changes_rows());
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

  void note(Run& run, const std::string& text) {
    run.info.notes.push_back(text);
    job_.warn((run.spec->label() + " at " + std::to_string(run.budget) + " tokens: ").append(text));
  }

  RunInfo finish(Run& run) {
    RunInfo& info = run.info;
    info.policy = run.spec->text();
    info.preset = run.spec->description->name;
    info.parameters = run.spec->parameters_json();
    info.budget = run.budget;
    info.cache_bytes = run.account.cache_bytes();
    info.full_cache_bytes = full_cache_bytes(trace_);
    info.peak_cache_bytes = run.account.peak_cache_bytes();
    info.kept_sha256 = run.account.kept_sha256();
    info.position_mode = run.policy->compacts_positions() ? "compacted" : "original";
    info.granularity = granularity_name(run.policy->granularity());
    info.trace = trace_.path();
    info.trace_sha256 = identity_;
    info.backend = backend_.name();
    info.created_by = program_version();
    info.early_steps = request_.early_steps;
    info.prompt_length = trace_.prompt_length();
    info.scope = scope_.text;
    info.score_spans = scope_.score;
    info.judge_spans = scope_.judge;
    info.peak_bytes = peak_resident_bytes();
    if (run.account.evicted_tokens() == 0 && !keeps_everything(*run.spec))
      note(run, run.budget >= trace_.prompt_length() ? "nothing was evicted: the budget holds the whole prompt of " +
                                                           std::to_string(trace_.prompt_length()) + " tokens"
                                                     : std::string("nothing was evicted"));
    if (run.account.head_emptied()) note(run, "at least one head kept no prompt token at all");
    summarise(run);
    if (run.edit != nullptr) {
      if (run.changed == 0) refuse_edit(*run.edit, trace_, run.spec->label(), run.budget);
      summarise_edit(*run.edit, trace_, run.policy->granularity(), runs_[run.base].errors, run.errors, info.summary);
      info.summary["edit.rows"] = static_cast<double>(run.changed);
    }
    results_.finish_run(run.index, info);
    return info;
  }

  void summarise(Run& run) {
    RunInfo& info = run.info;
    std::int64_t not_finite = 0;
    for (std::size_t m = 0; m < metrics_.size(); ++m) {
      if (!is_measured(*run.policy, *metrics_[m])) continue;
      run.totals[m].summarise(info.summary);
      not_finite += run.totals[m].not_finite();
    }
    info.summary["cache_bytes"] = static_cast<double>(info.cache_bytes);
    info.summary["full_cache_bytes"] = static_cast<double>(info.full_cache_bytes);
    info.summary["not_finite"] = static_cast<double>(not_finite);
    info.summary["evicted_tokens"] = static_cast<double>(run.account.evicted_tokens());
    if (request_.stability && run.edit == nullptr) {
      if (run.half != nullptr) run.overlap.summarise(info.summary);
      if (run.half == nullptr) note(run, "its scores are in half precision already, so its stability is not known");
    }
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
  const ReplayScope& scope_;
  const MeasuredSteps steps_;
  EvaluationRequest needs_{false, false, false, false, false};
  const std::shared_ptr<SharedValues> across_layers_ = std::make_shared<SharedValues>();
  std::vector<Run> runs_;
};

}  // namespace

std::vector<RunInfo> replay(const Trace& trace, const ReplayRequest& request, Backend& backend, ResultsWriter& results,
                            Job& job) {
  const ReplayScope scope = resolve_scope(trace, request, job);
  return Replay(scope.view != nullptr ? *scope.view : trace, scope, request, backend, results, job).run();
}

}  // namespace kvreplay
