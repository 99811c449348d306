#include "core/replay/live.h"

#include <algorithm>

#include "core/backend/describe_layer.h"
#include "core/replay/cache_account_internal.h"
#include "core/replay/layer_replay_internal.h"
#include "core/replay/run_setup_internal.h"

namespace kvreplay {
namespace {

// Metrics that need neither ranks nor distances of every visible token: those cost as much as all the others together.
std::vector<const Metric*> quick_metrics() {
  std::vector<const Metric*> quick;
  for (const Metric* metric : metric_registry())
    if (!metric->needs().overlap && !metric->needs().single_removals) quick.push_back(metric);
  return quick;
}

// A backend may measure more steps than were asked for; those that count twice would be summed twice.
class StepsOnly final : public EvaluationSink {
 public:
  StepsOnly(MetricSink& sink, std::int64_t first, std::int64_t end) : sink_(sink), first_(first), end_(end) {}
  void head(std::size_t run, int query_head, std::int64_t step, const HeadStep& values) override {
    if (step >= first_ && step < end_) sink_.head(run, query_head, step, values);
  }
  void layer(std::size_t run, std::int64_t step, const LayerStep& values) override {
    if (step >= first_ && step < end_) sink_.layer(run, step, values);
  }

 private:
  MetricSink& sink_;
  std::int64_t first_, end_;
};

}  // namespace

// One layer's values and sums, with all that they refer to.
struct LiveValues {
  std::shared_ptr<const MetricTable> table;
  std::shared_ptr<const MeasuredSteps> steps;
  std::shared_ptr<const Policy> policy;
  MetricSink sink{*table, *steps, 1, true};
};

std::vector<const Metric*> LiveLayer::metrics() const {
  std::vector<const Metric*> list;
  for (const auto& row : measurement->table->rows())
    if (is_measured(*measurement->policy, *row.metric)) list.push_back(row.metric);
  return list;
}

std::span<const float> LiveLayer::values(const std::string& metric) const {
  const auto& rows = measurement->table->rows();
  for (std::size_t row = 0; row < rows.size(); ++row)
    if (rows[row].metric->info().name == metric && is_measured(*measurement->policy, *rows[row].metric))
      return measurement->sink.values(0, row);
  return {};
}

LiveReplay::LiveReplay(const Trace& trace, Backend& backend, LiveOptions options)
    : trace_(trace), backend_(backend), options_(std::move(options)), evidence_(evidence_spans(trace, {})) {
  const bool all_or_error = !options_.metrics.empty();
  metrics_ = usable_metrics(trace, evidence_, all_or_error ? options_.metrics : quick_metrics(), all_or_error, needs_);
  const std::int64_t early = 16;
  steps_ = std::make_shared<const MeasuredSteps>(MeasuredSteps{trace.num_decode_steps(), early, {}});
  table_ = std::make_shared<const MetricTable>(metrics_, trace.model().num_query_heads, trace.num_decode_steps());
}

LiveReplay::~LiveReplay() = default;

LiveRun LiveReplay::plan(PolicySpec spec, const Budget& budget) const {
  LiveRun run;
  run.policy = make_policy(spec);
  run.budget = settle_budget(trace_, spec, *run.policy, budget, [&](const std::string& text) { run.notes.push_back(text); });
  run.spec = std::move(spec);
  return run;
}

// Keys and values, and full attention of the decode queries.
std::int64_t LiveReplay::bytes_of_layer() const {
  const ModelInfo& model = trace_.model();
  const std::int64_t of_token =
      2 * model.num_kv_heads * model.head_dim + trace_.num_decode_steps() * static_cast<std::int64_t>(model.num_query_heads);
  return of_token * trace_.num_tokens() * static_cast<std::int64_t>(sizeof(float));
}

LiveReplay::KeptLayer& LiveReplay::kept_layer(int layer) {
  const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const KeptLayer& kept) { return kept.layer == layer; });
  if (found != kept_.end()) {
    kept_.splice(kept_.begin(), kept_, found);
    return kept_.front();
  }
  const std::int64_t most = std::max<std::int64_t>(1, options_.memory_bytes / std::max<std::int64_t>(1, bytes_of_layer()));
  const auto is_pinned = [&](const KeptLayer& each) { return each.layer == pinned_; };
  while (static_cast<std::int64_t>(kept_.size()) >= most) {
    const auto oldest = std::find_if_not(kept_.rbegin(), kept_.rend(), is_pinned);
    if (oldest == kept_.rend()) break;
    kept_.erase(std::prev(oldest.base()));
  }
  kept_.push_front({layer, nullptr, nullptr});
  KeptLayer& kept = kept_.front();
  try {
    kept.loaded = backend_.load(trace_, layer);
  } catch (...) {
    kept_.pop_front();
    throw;
  }
  kept.workspace = std::make_unique<LayerWorkspace>(kept.loaded, backend_, false, across_layers_);
  return kept_.front();
}

std::vector<int> LiveReplay::loaded_layers() const {
  std::vector<int> layers;
  for (const KeptLayer& kept : kept_) layers.push_back(kept.layer);
  return layers;
}

LiveLayer LiveReplay::evict(const LiveRun& run, int layer, bool scores) {
  KeptLayer& kept = kept_layer(layer);
  // Policies share what they compute, but a parameter that is moved leaves something behind at every value.
  if (backend_.array_bytes() > options_.memory_bytes / 2)
    for (KeptLayer& each : kept_) each.workspace->forget_shared();
  LayerWorkspace& workspace = *kept.workspace;
  workspace.set_wants_scores(scores);
  LiveLayer result;
  result.layer = layer;
  result.first_candidate = workspace.first_candidate();
  workspace.take_remarks();  // of an eviction that was cancelled
  result.evictions = std::make_shared<const LayerEvictions>(run.policy->evict(workspace, run.budget));
  result.remarks = workspace.take_remarks();
  result.measurement = std::make_shared<const LiveValues>(table_, steps_, run.policy);
  return result;
}

void LiveReplay::measure(LiveLayer& layer, IndexRange range) {
  const LoadedLayer& loaded = *kept_layer(layer.layer).loaded;
  const std::int64_t end = range.end < 0 ? steps_->count : std::min(range.end, steps_->count);
  const RunEvictions view{layer.evictions->evicted_at.view(), &layer.evictions->changes};
  EvaluationRequest request = needs_;
  request.first_step = range.begin;
  request.end_step = end;
  request.keep_bytes = options_.memory_bytes / 2;
  // Into a copy: a cancelled measurement leaves nothing behind.
  auto next = std::make_shared<LiveValues>(*layer.measurement);
  const bool in_turn = range.begin == layer.measured;
  StepsOnly only(next->sink, range.begin, end);
  if (range.begin < end && !metrics_.empty()) backend_.evaluate(loaded, {view}, request, only);
  if (in_turn && end == steps_->count && next->sink.has_sequences()) {
    const std::int64_t query_heads = loaded.num_query_heads;
    for (std::int64_t q = 0; q < query_heads; ++q)
      next->sink.sequence(trace_, evidence_, 0, q, view.evicted_at[q * view.heads() / query_heads].flat());
  }
  if (!in_turn) next->sink.take_sums(layer.measurement->sink);
  layer.measurement = std::move(next);
  if (in_turn) layer.measured = end;
}

RunInfo LiveReplay::info(const LiveRun& run, const std::string& budget_text,
                         std::span<const LiveLayer* const> layers) const {
  CacheAccount account(trace_, run.policy->granularity(), CacheAccount::Hash::evicted_at);
  MetricTotals totals(*table_);
  RunInfo info;
  info.notes = run.notes;
  for (const LiveLayer* layer : layers) {
    LoadedLayer described;
    describe_layer(described, trace_, layer->layer);
    account.add_layer(described, {layer->evictions->evicted_at.view(), &layer->evictions->changes});
    totals.add_layer(layer->measurement->sink.sums(0));
    for (const auto& remark : layer->remarks)
      if (std::find(info.notes.begin(), info.notes.end(), remark) == info.notes.end()) info.notes.push_back(remark);
  }
  describe_run(trace_, run.spec, *run.policy, run.budget, account, *table_, totals, info,
               [&](const std::string& text) { info.notes.push_back(text); });
  info.budget_text = budget_text;
  info.kept_sha256 = account.sha256();
  info.trace_sha256 = trace_.identity();
  info.backend = backend_.name();
  info.early_steps = steps_->early;
  return info;
}

}  // namespace kvreplay
