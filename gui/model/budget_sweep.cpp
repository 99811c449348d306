#include "gui/model/budget_sweep.h"

#include <algorithm>

#include "core/base/parallel.h"
#include "core/replay/live.h"

namespace kvreplay::gui {
namespace {

// Measured without a pause: what is on screen shares the threads and must not wait long.
constexpr std::int64_t steps_at_once = 8;

RunInfo evaluate(LiveReplay& live, const Document& document, const std::string& policy, const std::string& budget) {
  const LiveRun run = live.plan(parse_policy(policy), Budget::parse(budget));
  std::vector<LiveLayer> layers;
  for (int layer = 0; layer < document.num_layers(); ++layer) {
    layers.push_back(live.evict(run, document.layer_number(layer)));
    for (std::int64_t step = 0; step < document.num_steps(); step += steps_at_once)
      live.measure(layers.back(), {step, std::min<std::int64_t>(document.num_steps(), step + steps_at_once)});
  }
  std::vector<const LiveLayer*> all;
  for (const LiveLayer& layer : layers) all.push_back(&layer);
  return live.info(run, budget, all);
}

}  // namespace

struct BudgetSweep::Desk {
  std::shared_ptr<const Document> document;  // outlives what reads it
  std::unique_ptr<Backend> backend = make_cpu_backend();
  std::unique_ptr<LiveReplay> live;
};

BudgetSweep::BudgetSweep(QObject* parent) : QObject(parent) {}
BudgetSweep::~BudgetSweep() = default;

void BudgetSweep::start(std::shared_ptr<const Document> document, const std::vector<std::string>& policies,
                        const std::vector<std::string>& budgets) {
  stop();
  if (desk_ == nullptr || desk_->document != document) {
    desk_ = std::make_shared<Desk>();
    desk_->document = document;
  }
  document_ = std::move(document);
  points_.clear();
  problems_.clear();
  next_ = 0;
  for (const std::string& budget : budgets)
    for (const std::string& policy : policies) points_.push_back({policy, budget});
  ask();
}

void BudgetSweep::stop() {
  background_.drop(this);
  next_ = points_.size();
  emit progressed();
}

void BudgetSweep::ask() {
  emit progressed();
  if (!running()) return;
  background_.ask<RunInfo>(
      this,
      [desk = desk_, point = points_[next_]] {
        if (desk->live == nullptr)
          desk->live = std::make_unique<LiveReplay>(desk->document->trace(), *desk->backend, LiveOptions{});
        return evaluate(*desk->live, *desk->document, point.policy, point.budget);
      },
      [this](const std::shared_ptr<const RunInfo>& info, const std::string& problem) {
        ++next_;
        if (info != nullptr)
          emit point(*info);
        else
          problems_.push_back(problem);
        ask();
      });
}

}  // namespace kvreplay::gui
