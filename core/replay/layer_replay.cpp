#include <algorithm>
#include <chrono>
#include <limits>

#include "core/replay/layer_replay_internal.h"

namespace kvreplay {
namespace {

constexpr std::int64_t least_room = std::int64_t{8} << 20;
constexpr std::int64_t room_of_a_device = std::int64_t{1} << 30;  // what it measures comes back run by run

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

void Run::note(const std::string& text, Job& job) {
  info.notes.push_back(text);
  job.warn((spec->label() + " at " + std::to_string(budget) + " tokens: ").append(text));
}

bool is_measured(const Policy& policy, const Metric& metric) {
  return !(metric.info().unchanged_rows && policy.changes_rows());
}

void ReplayParts::on_worth(int run, const TokenWorth& worth) const {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  request.on_worth(run, worth);
}

RunEvictions LayerReplay::Outcome::view() const {
  return kept ? RunEvictions{{}, nullptr, &*kept} : RunEvictions{evictions.evicted_at.view(), &evictions.changes};
}

std::int64_t LayerReplay::Outcome::bytes() const {
  const std::int64_t numbers =
      evictions.evicted_at.size() + evictions.scores.size() + static_cast<std::int64_t>(kept ? kept->position.size() : 0) +
      static_cast<std::int64_t>(evictions.changes.storage.size()) + (half ? half->evicted_at.size() : 0);
  return numbers * static_cast<std::int64_t>(sizeof(std::int32_t));
}

LayerReplay::LayerReplay(const ReplayParts& parts, const BackendPlan& plan, LayerWorkspace& workspace,
                         std::size_t layer_index, double loading)
    : parts_(parts),
      plan_(plan),
      workspace_(workspace),
      layer_index_(layer_index),
      loading_(loading / static_cast<double>(parts.runs.size())) {
  const ReplayRequest& request = parts.request;
  needs_rows_ = request.scores || request.stability || request.worth > 0 || !request.edits.empty();
}

void LayerReplay::run() {
  for (std::size_t first = 0; first < parts_.runs.size();) {
    const std::size_t end = evict_batch(first);
    const bool keeps_values = !parts_.request.summary_only || !parts_.request.edits.empty();
    MetricSink sink(parts_.metrics, parts_.steps, batch_.size(), keeps_values);
    measure(sink);
    encode();
    parts_.order.wait_for_turn(layer_index_, first, end);
    for (std::size_t i = 0; i < batch_.size(); ++i) take_over(batch_[i], sink, i);
    parts_.order.took_over(first, end);
    parts_.job.advance_by(static_cast<double>(batch_.size()) / 2);
    first = end;
  }
}

// Evictions and what is measured of a batch stay below what one layer's tensors take, or a few megabytes for small traces; a
// device says itself how many runs it wants.
std::int64_t LayerReplay::room() const {
  if (plan_.runs_at_once > 0) return room_of_a_device;
  return std::max(least_room, parts_.trace.layer_bytes(parts_.trace.layers().front()) / 2);
}

// Beside the evictions: how evaluate() sorts tokens into kept and evicted ones, outputs and metrics.
std::int64_t LayerReplay::bytes_of_measuring(const Run& run) const {
  const LoadedLayer& layer = workspace_.loaded();
  const std::int64_t sorted = granularity_heads(run.policy->granularity(), workspace_.model()) * layer.tokens;
  const std::int64_t measured = layer.steps() * layer.num_query_heads * (layer.head_dim + 32);
  return ((plan_.runs_at_once > 0 ? 0 : sorted) + measured) * static_cast<std::int64_t>(sizeof(float));
}

// Fills the batch from run `first` on; returns the run after its last one.
std::size_t LayerReplay::evict_batch(std::size_t first) {
  batch_.clear();
  std::int64_t taken = 0;
  std::size_t run = first;
  for (; run < parts_.runs.size(); ++run) {
    if (plan_.runs_at_once > 0 && run - first == plan_.runs_at_once) break;
    parts_.job.check();
    const auto started = Clock::now();
    batch_.push_back(evict(run, first));
    bound_shared_scores();
    batch_.back().seconds = seconds_since(started);
    parts_.job.advance_by(0.5);
    const std::int64_t each = batch_.back().bytes() + bytes_of_measuring(parts_.runs[run]);
    taken += each;
    if (taken + each > room()) {
      ++run;
      break;
    }
  }
  return run;
}

LayerReplay::Outcome LayerReplay::evict(std::size_t index, std::size_t first) {
  const Run& run = parts_.runs[index];
  Outcome outcome;
  outcome.run = index;
  // Policies whose layer shows no more than the budget evict nothing, whatever they protect: they check that first.
  if (!needs_rows_) outcome.kept = run.policy->keep(workspace_, run.budget);
  if (!outcome.kept)
    outcome.evictions = run.edit != nullptr && run.base >= first ? batch_[run.base - first].evictions
                                                                 : run.policy->evict(workspace_, run.budget);
  if (run.edit != nullptr && run.edit->touches(workspace_.layer()))
    outcome.changed = run.edit->apply(workspace_.loaded(), outcome.evictions.evicted_at);
  outcome.remarks = workspace_.take_remarks();
  if (run.half != nullptr && run.edit == nullptr) {
    outcome.half = run.half->evict(workspace_, run.budget);
    workspace_.take_remarks();  // nothing that the policy itself did not say
  }
  return outcome;
}

// Budgets of one setting share its scores, and settings share what they have in common. Thousands of settings would fill any
// memory, and a layer asks for few of their scores twice.
void LayerReplay::bound_shared_scores() {
  if (plan_.shared_bytes > 0 && workspace_.backend().array_bytes() > plan_.shared_bytes) workspace_.forget_shared();
}

void LayerReplay::measure(MetricSink& sink) {
  const auto started = Clock::now();
  std::vector<RunEvictions> views;
  for (const Outcome& outcome : batch_) views.push_back(outcome.view());
  if (!parts_.metrics.rows().empty()) workspace_.backend().evaluate(workspace_.loaded(), views, parts_.needs, sink);
  const std::int64_t query_heads = workspace_.loaded().num_query_heads;
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    if (sink.has_sequences()) {
      EvictedRows rows(workspace_.loaded(), views[i]);
      for (std::int64_t q = 0; q < query_heads; ++q)
        sink.sequence(parts_.trace, parts_.evidence, i, q, rows.row(q * views[i].heads() / query_heads));
    }
    const Run& run = parts_.runs[batch_[i].run];
    if (parts_.request.worth > 0 && run.edit == nullptr)
      batch_[i].worth = most_worth_restoring(workspace_, views[i].evicted_at, parts_.steps.measured, parts_.request.worth);
  }
  const double share = seconds_since(started) / static_cast<double>(batch_.size());
  for (Outcome& outcome : batch_) outcome.seconds += share;
}

// Before the runs' turns, so that backends do it side by side.
void LayerReplay::encode() {
  if (parts_.request.summary_only) return;
  const LoadedLayer& loaded = workspace_.loaded();
  for (Outcome& outcome : batch_) {
    const int run = parts_.runs[outcome.run].index;
    outcome.encoded = outcome.kept ? parts_.results.encode_evicted(run, evicted_at_of(*outcome.kept, loaded.first_candidate,
                                                                                      loaded.prompt, loaded.tokens))
                                   : parts_.results.encode_evicted(run, outcome.evictions.evicted_at);
  }
}

// In the run's turn: nobody else touches it.
void LayerReplay::take_over(Outcome& outcome, const MetricSink& sink, std::size_t i) {
  Run& run = parts_.runs[outcome.run];
  for (const std::string& remark : outcome.remarks)
    if (const auto& notes = run.info.notes; std::find(notes.begin(), notes.end(), remark) == notes.end())
      run.note(remark, parts_.job);
  run.info.seconds += outcome.seconds + loading_;
  run.changed += outcome.changed;
  if (outcome.half) run.overlap.add_layer(workspace_.loaded(), outcome.evictions.evicted_at, outcome.half->evicted_at);
  run.account.add_layer(workspace_.loaded(), outcome.view());
  run.totals.add_layer(sink.sums(i));
  if (!parts_.request.edits.empty()) run.errors.push_back(layer_errors(parts_.metrics, sink, i, parts_.steps.count));
  for (const TokenWorth& worth : outcome.worth) parts_.on_worth(run.index, worth);
  if (!parts_.request.summary_only) write(run, outcome, sink, i);
}

void LayerReplay::write(Run& run, const Outcome& outcome, const MetricSink& sink, std::size_t i) {
  const auto layer = static_cast<std::int64_t>(layer_index_);
  parts_.results.write_evicted(run.index, layer, outcome.encoded);
  if (parts_.request.scores) {
    const Tensor<float, 2>& scores = outcome.evictions.scores;
    if (scores.empty())
      parts_.results.write_scores(run.index, layer,
                                  Tensor<float, 2>({outcome.evictions.evicted_at.dim(0), parts_.trace.prompt_length()},
                                                   std::numeric_limits<float>::quiet_NaN()));
    else
      parts_.results.write_scores(run.index, layer, scores);
  }
  const auto& rows = parts_.metrics.rows();
  for (std::size_t m = 0; m < rows.size(); ++m)
    if (is_measured(*run.policy, *rows[m].metric))
      parts_.results.write_metric(run.index, layer, rows[m].metric->info().name, sink.values(i, m));
}

}  // namespace kvreplay
