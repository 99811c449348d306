#include "gui/model/run_task_internal.h"

#include <algorithm>
#include <chrono>

#include "core/report/policy_label.h"

namespace kvreplay::gui {
namespace {

using Clock = std::chrono::steady_clock;

// Between two looks at what is wanted next.
constexpr double piece_seconds = 0.06;

MetricValues values_of(const LiveLayer& layer, const Metric& metric, const Run& run) {
  MetricValues values;
  const auto& axes = metric.info().axes;
  values.axes.assign(axes.begin() + 1, axes.end());
  for (const std::string& axis : values.axes)
    values.shape.push_back(axis == "query_head" ? run.query_heads : axis == "step" ? run.steps : num_regions);
  if (!values.axes.empty() && values.axes.back() == "region")
    values.region_names.assign(region_names.begin(), region_names.end());
  const auto span = layer.values(metric.info().name);
  values.values.assign(span.begin(), span.end());
  return values;
}

class LiveTask final : public RunTask {
 public:
  LiveTask(RunRequest request, std::shared_ptr<LiveReplay> live)
      : RunTask(std::move(request)), live_(std::move(live)), layers_(run_.layers.size()), peeked_(run_.layers.size(), -1) {}

  std::optional<Piece> next(const Look& look) const override {
    if (ended()) return std::nullopt;
    if (!plan_) return Piece{Piece::Kind::plan, urgency(first_picture), look.layer, {}};
    const int count = run_.num_layers();
    if (const auto piece = next_of(std::clamp(look.layer, 0, count - 1), look.step, first_picture, 2)) return piece;
    for (int layer = 0; layer < count; ++layer)
      if (!layers_[at(layer)]) return Piece{Piece::Kind::evict, urgency(3), layer, {}};
    for (int layer = 0; layer < count; ++layer)
      if (const auto piece = next_of(layer, 0, 3, 4)) return piece;
    return Piece{Piece::Kind::finish, urgency(5), 0, {}};
  }

  void work(const Piece& piece) override {
    switch (piece.kind) {
      case Piece::Kind::plan: plan(); break;
      case Piece::Kind::evict: evict(piece.layer); break;
      case Piece::Kind::measure: measure(piece); break;
      case Piece::Kind::finish: finish(); break;
    }
  }

  double done() const override {
    double sum = 0;
    for (const auto& layer : layers_)
      if (layer) sum += run_.steps > 0 ? 0.2 + 0.8 * static_cast<double>(layer->measured) / run_.steps : 1.0;
    return run_.complete ? 1 : sum / std::max<double>(1, static_cast<double>(layers_.size()));
  }

 private:
  static std::size_t at(int layer) { return static_cast<std::size_t>(layer); }

  // The next piece of one layer: its evictions, the step on screen, then steps in their order.
  std::optional<Piece> next_of(int layer, int step, int evicting, int measuring) const {
    const auto& known = layers_[at(layer)];
    if (!known) return Piece{Piece::Kind::evict, urgency(evicting), layer, {}};
    if (run_.layers[at(layer)]->measured) return std::nullopt;
    if (step > 0 && step <= run_.steps && known->measured < step && peeked_[at(layer)] != step)
      return Piece{Piece::Kind::measure, urgency(1), layer, {step - 1, step}};
    const auto steps = static_cast<std::int64_t>(piece_seconds / seconds_of_step_);
    const std::int64_t end = std::min<std::int64_t>(run_.steps, known->measured + std::max<std::int64_t>(1, steps));
    return Piece{Piece::Kind::measure,
                 urgency(known->measured == 0 && measuring == 2 ? 1 : measuring),
                 layer,
                 {known->measured, end}};
  }

  void plan() {
    plan_ = live_->plan(parse_policy(request_.spec.policy), Budget::parse(request_.spec.budget));
    run_.granularity = plan_->policy->granularity();
    run_.rows = static_cast<int>(granularity_heads(run_.granularity, request_.document->model()));
    run_.label = plan_->spec.label() + " · " + request_.spec.budget;
    run_.info.policy = plan_->spec.text();
    run_.info.preset = plan_->spec.description->name;
    run_.info.budget = plan_->budget;
    run_.info.budget_text = request_.spec.budget;
    run_.info.granularity = granularity_name(run_.granularity);
    run_.info.trace = request_.document->path();
    run_.info.trace_sha256 = request_.document->identity();
    run_.notes = plan_->notes;
  }

  void evict(int layer) {
    // Scores come with the evictions: panels rank by them.
    LiveLayer evicted = live_->evict(*plan_, request_.document->layer_number(layer), true);
    for (const std::string& remark : evicted.remarks)
      if (std::find(run_.notes.begin(), run_.notes.end(), remark) == run_.notes.end()) run_.notes.push_back(remark);
    layers_[at(layer)] = std::move(evicted);
    take_over(layer);
  }

  void measure(const Piece& piece) {
    LiveLayer& layer = *layers_[at(piece.layer)];
    const auto started = Clock::now();
    live_->measure(layer, piece.steps);
    const double seconds = std::chrono::duration<double>(Clock::now() - started).count();
    seconds_of_step_ = std::max(1e-6, seconds / static_cast<double>(piece.steps.end - piece.steps.begin));
    if (layer.measured < piece.steps.end) peeked_[at(piece.layer)] = static_cast<int>(piece.steps.end);
    take_over(piece.layer);
  }

  void take_over(int index) {
    const LiveLayer& layer = *layers_[at(index)];
    auto result = std::make_shared<RunLayer>();
    result->evictions = layer.evictions;
    for (const Metric* metric : layer.metrics()) result->metrics[metric->info().name] = values_of(layer, *metric, run_);
    result->measured = layer.measured >= run_.steps;
    run_.layers[at(index)] = std::move(result);
  }

  void finish() {
    std::vector<const LiveLayer*> all;
    for (const auto& layer : layers_) all.push_back(&*layer);
    run_.info = live_->info(*plan_, request_.spec.budget, all);
    run_.notes = run_.info.notes;
    run_.complete = true;
    layers_.clear();
    live_.reset();
  }

  std::shared_ptr<LiveReplay> live_;
  std::optional<LiveRun> plan_;
  std::vector<std::optional<LiveLayer>> layers_;
  std::vector<int> peeked_;  // by layer: the step that was measured ahead of its turn
  double seconds_of_step_ = 0.02;
};

// A run of a results file, read layer by layer.
class ResultsTask final : public RunTask {
 public:
  explicit ResultsTask(RunRequest request) : RunTask(std::move(request)) {
    run_.info = request_.results->info(request_.spec.index);
    run_.label = policy_label(run_.info.policy) + " · " + run_.info.budget_text;
    run_.notes = run_.info.notes;
  }

  std::optional<Piece> next(const Look& look) const override {
    if (ended()) return std::nullopt;
    if (!planned_) return Piece{Piece::Kind::plan, urgency(first_picture), look.layer, {}};
    const int count = run_.num_layers();
    const int shown = std::clamp(look.layer, 0, count - 1);
    if (run_.layer(shown) == nullptr) return Piece{Piece::Kind::evict, urgency(first_picture), shown, {}};
    for (int layer = 0; layer < count; ++layer)
      if (run_.layer(layer) == nullptr) return Piece{Piece::Kind::evict, urgency(3), layer, {}};
    return Piece{Piece::Kind::finish, urgency(5), 0, {}};
  }

  void work(const Piece& piece) override {
    if (piece.kind == Piece::Kind::plan) plan();
    if (piece.kind == Piece::Kind::evict) read(piece.layer);
    if (piece.kind == Piece::Kind::finish) run_.complete = true;
  }

  double done() const override {
    const auto there =
        std::count_if(run_.layers.begin(), run_.layers.end(), [](const auto& layer) { return layer != nullptr; });
    return static_cast<double>(there) / std::max<double>(1, static_cast<double>(run_.layers.size()));
  }

 private:
  void plan() {
    const Results& results = *request_.results;
    if (run_.info.summary_only)
      throw Error(results.path(), "run " + std::to_string(request_.spec.index) + " has only its summary",
                  "replay without --summary-only to see its evictions");
    const auto shape = results.shape(request_.spec.index);
    const Document& document = *request_.document;
    if (shape[0] != document.num_layers() || shape[2] != document.num_tokens())
      throw Error(results.path(),
                  "has " + std::to_string(shape[0]) + " layers of " + std::to_string(shape[2]) + " tokens, and the trace " +
                      std::to_string(document.num_layers()) + " of " + std::to_string(document.num_tokens()),
                  "open the trace that the results were made from");
    run_.rows = static_cast<int>(shape[1]);
    run_.granularity = run_.info.granularity == "query_head" ? Granularity::query_head
                       : run_.info.granularity == "layer"    ? Granularity::layer
                                                             : Granularity::kv_head;
    for (const std::string& name : results.metric_names(request_.spec.index))
      metrics_[name] = results.metric(request_.spec.index, name);
    planned_ = true;
  }

  void read(int layer) {
    auto result = std::make_shared<RunLayer>();
    auto evictions = std::make_shared<LayerEvictions>();
    evictions->evicted_at = request_.results->evicted_at(request_.spec.index, layer);
    if (request_.results->has_scores(request_.spec.index))
      evictions->scores = request_.results->scores(request_.spec.index, layer);
    result->evictions = std::move(evictions);
    for (const auto& [name, all] : metrics_) {
      MetricValues& values = result->metrics[name];
      values.axes.assign(all.axes.begin() + 1, all.axes.end());
      values.shape.assign(all.shape.begin() + 1, all.shape.end());
      values.region_names = all.region_names;
      const auto each = static_cast<std::ptrdiff_t>(all.values.size() / static_cast<std::size_t>(all.shape.front()));
      values.values.assign(all.values.begin() + layer * each, all.values.begin() + (layer + 1) * each);
    }
    result->measured = true;
    run_.layers[static_cast<std::size_t>(layer)] = std::move(result);
  }

  bool planned_ = false;
  std::map<std::string, MetricValues> metrics_;  // of all layers
};

}  // namespace

RunTask::RunTask(RunRequest request) : request_(std::move(request)) {
  const Document& document = *request_.document;
  run_.spec = request_.spec;
  run_.label = request_.spec.policy + " · " + request_.spec.budget;
  run_.query_heads = document.num_query_heads();
  run_.tokens = document.num_tokens();
  run_.prompt = document.prompt_length();
  run_.steps = document.num_steps();
  run_.layers.resize(static_cast<std::size_t>(document.num_layers()));
}

void RunTask::fail(const std::string& problem) { run_.problem = problem; }

std::unique_ptr<RunTask> make_live_task(RunRequest request, std::shared_ptr<LiveReplay> live) {
  return std::make_unique<LiveTask>(std::move(request), std::move(live));
}

std::unique_ptr<RunTask> make_results_task(RunRequest request) { return std::make_unique<ResultsTask>(std::move(request)); }

}  // namespace kvreplay::gui
