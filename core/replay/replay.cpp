#include "core/replay/replay.h"

#include <sys/resource.h>
#include <algorithm>
#include <chrono>
#include <future>
#include <map>
#include <system_error>
#include <thread>

#include "core/base/text.h"
#include "core/base/version.h"
#include "core/replay/equal_bytes_internal.h"
#include "core/replay/layer_replay_internal.h"
#include "core/replay/run_setup_internal.h"
#include "core/replay/scope_internal.h"

namespace kvreplay {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::int64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

// A backend's layers, one after the other; where the backend can, the next one is loaded while this one is replayed.
class LayerLoader {
 public:
  LayerLoader(const Trace& trace, Backend& backend) : trace_(trace), backend_(backend) {}

  // In another thread. Without one, take() does it.
  void load_ahead(int layer) {
    try {
      ahead_ = std::async(std::launch::async, [this, layer] { return backend_.load(trace_, layer); });
    } catch (const std::system_error&) {
      ahead_ = {};
    }
  }
  std::shared_ptr<LoadedLayer> take(int layer) { return ahead_.valid() ? ahead_.get() : backend_.load(trace_, layer); }

 private:
  const Trace& trace_;
  Backend& backend_;
  std::future<std::shared_ptr<LoadedLayer>> ahead_;  // a loader that goes waits for it
};

class Replay {
 public:
  Replay(const Trace& trace, const ReplayScope& scope, const ReplayRequest& request, std::span<Backend* const> backends,
         ResultsWriter& results, Job& job)
      : trace_(trace),
        request_(request),
        results_(results),
        job_(job),
        model_(trace.model()),
        identity_(trace.identity()),
        scope_(scope),
        steps_{trace.num_decode_steps(), request.early_steps, scope.judged},
        evidence_(evidence_spans(trace, request.evidence_labels)),
        metrics_(usable_metrics(trace, evidence_, request.all_metrics ? metric_registry() : request.metrics,
                                !request.all_metrics, needs_),
                 trace.model().num_query_heads, trace.num_decode_steps()) {
    choose_backends(backends, request.policies.size() * request.budgets.size());
    if (request.equal_bytes) {
      add_runs_of_equal_bytes();
    } else {
      for (const PolicySpec& spec : request.policies)
        for (const Budget& budget : request.budgets) add_run(spec, budget);
    }
  }

  std::vector<RunInfo> run() {
    const auto& layers = trace_.layers();
    choose_backends(std::vector<Backend*>(backends_), runs_.size());
    tell_memory();
    job_.begin("replaying " + trace_.path(), static_cast<double>(layers.size() * runs_.size()), "layer runs");
    LayerOrder order(layers.size(), runs_.size());
    const ReplayParts parts{trace_, request_, evidence_, metrics_, steps_, needs_, results_, job_, order, runs_};
    std::vector<std::thread> others;
    try {
      for (std::size_t b = 1; b < std::min(backends_.size(), layers.size()); ++b)
        others.emplace_back([&, b] { work(b, parts); });
    } catch (const std::system_error&) {  // no more threads to be had: fewer backends take all the layers
    }
    work(0, parts);
    for (auto& other : others) other.join();
    if (failure_) std::rethrow_exception(failure_);
    job_.end();
    std::vector<RunInfo> infos;
    for (Run& run : runs_) infos.push_back(finish(run));
    return infos;
  }

 private:
  // Before anything is loaded: a layer may be too large. A backend without room for it is left out while another has room.
  void choose_backends(std::span<Backend* const> offered, std::size_t runs) {
    std::exception_ptr refusal;
    backends_.clear();
    plans_.clear();
    for (Backend* backend : offered) {
      try {
        plans_.push_back(backend->plan(trace_, runs, needs_));
        backends_.push_back(backend);
      } catch (const Error&) {
        if (!refusal) refusal = std::current_exception();
      }
    }
    if (backends_.empty() && refusal) std::rethrow_exception(refusal);
  }

  // Backends of one device say the same; that is told once.
  void tell_memory() {
    std::map<std::string, int> count;
    for (std::size_t b = 0; b < backends_.size(); ++b)
      if (!plans_[b].memory.empty()) ++count[backends_[b]->name() + ": " + plans_[b].memory];
    for (const auto& [text, times] : count) job_.inform(times == 1 ? text : text + ", " + std::to_string(times) + " times");
  }

  // One backend's share of the layers. The first failure is kept; it stops the others.
  void work(std::size_t backend, const ReplayParts& parts) {
    try {
      replay_layers(backend, parts);
    } catch (const LayerOrder::Stopped&) {
    } catch (...) {
      const std::lock_guard lock(failure_mutex_);
      if (!failure_) failure_ = std::current_exception();
      parts.order.stop();
    }
  }

  void replay_layers(std::size_t number, const ReplayParts& parts) {
    Backend& backend = *backends_[number];
    const BackendPlan& plan = plans_[number];
    LayerLoader loader(trace_, backend);
    std::optional<std::size_t> next = parts.order.next();
    while (next) {
      const std::size_t current = *next;
      const auto started = Clock::now();
      LayerWorkspace workspace(loader.take(trace_.layers()[current]), backend, request_.scores, across_layers_);
      const double loading = seconds_since(started);
      if (plan.loads_ahead && (next = parts.order.next())) loader.load_ahead(trace_.layers()[*next]);
      LayerReplay(parts, plan, workspace, current, loading).run();
      if (!plan.loads_ahead) next = parts.order.next();
    }
  }

  Run new_run(const PolicySpec& spec, const std::string& budget_text) const {
    auto policy = make_policy(spec);
    CacheAccount account(trace_, policy->granularity(),
                         request_.summary_only ? CacheAccount::Hash::kept_prompt : CacheAccount::Hash::evicted_at);
    Run run{&spec, std::move(policy), 0, -1, {}, std::move(account), MetricTotals(metrics_)};
    run.info.budget_text = budget_text;
    if (request_.stability) run.half = half_precision_form(spec);
    return run;
  }

  void add_run(const PolicySpec& spec, const Budget& budget) {
    Run run = new_run(spec, budget.text);
    std::string remark;
    run.budget = settle_budget(trace_, spec, *run.policy, budget, [&](const std::string& text) { remark = text; });
    if (!remark.empty()) run.note(remark, job_);
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
    const auto found = equal_bytes_budgets(trace_, searched, goals, *backends_.front(), across_layers_, job_);
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
    layout.summary_only = request_.summary_only;
    if (layout.summary_only) return layout;
    for (const auto& [metric, kind, regions, sums, first_value, values] : metrics_.rows()) {
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

  RunInfo finish(Run& run) {
    RunInfo& info = run.info;
    describe_run(trace_, *run.spec, *run.policy, run.budget, run.account, metrics_, run.totals, info,
                 [&](const std::string& text) { run.note(text, job_); });
    (request_.summary_only ? info.kept_prompt_sha256 : info.kept_sha256) = run.account.sha256();
    info.summary_only = request_.summary_only;
    info.trace_sha256 = identity_;
    info.backend = backends_.front()->name();
    info.early_steps = request_.early_steps;
    info.scope = scope_.text;
    info.score_spans = scope_.score;
    info.judge_spans = scope_.judge;
    info.peak_bytes = peak_resident_bytes();
    if (request_.stability && run.edit == nullptr) {
      if (run.half != nullptr) run.overlap.summarise(info.summary);
      if (run.half == nullptr) run.note("its scores are in half precision already, so its stability is not known", job_);
    }
    if (run.edit != nullptr) {
      if (run.changed == 0) refuse_edit(*run.edit, trace_, run.spec->label(), run.budget);
      summarise_edit(*run.edit, trace_, run.policy->granularity(), runs_[run.base].errors, run.errors, info.summary);
      info.summary["edit.rows"] = static_cast<double>(run.changed);
    }
    results_.finish_run(run.index, info);
    return info;
  }

  const Trace& trace_;
  const ReplayRequest& request_;
  std::vector<Backend*> backends_;  // with room for a layer
  ResultsWriter& results_;
  SharedJob job_;
  const ModelInfo& model_;
  const std::string identity_;
  const ReplayScope& scope_;
  const MeasuredSteps steps_;
  EvaluationRequest needs_{false, false, false, false, false};  // filled by usable_metrics()
  const std::vector<TextSpan> evidence_;
  const MetricTable metrics_;
  std::vector<BackendPlan> plans_;  // of each backend
  const std::shared_ptr<SharedValues> across_layers_ = std::make_shared<SharedValues>();
  std::vector<Run> runs_;
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

}  // namespace

std::vector<RunInfo> replay(const Trace& trace, const ReplayRequest& request, Backend& backend, ResultsWriter& results,
                            Job& job) {
  Backend* const only = &backend;
  return replay(trace, request, {&only, 1}, results, job);
}

std::vector<RunInfo> replay(const Trace& trace, const ReplayRequest& request, std::span<Backend* const> backends,
                            ResultsWriter& results, Job& job) {
  const ReplayScope scope = resolve_scope(trace, request, job);
  return Replay(scope.view != nullptr ? *scope.view : trace, scope, request, backends, results, job).run();
}

}  // namespace kvreplay
