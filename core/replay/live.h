// Live replay: one layer of one run at a time, into memory, for whoever changes a parameter and waits for the picture.
// What depends on the trace alone (loaded layers, scores before pooling, full attention of the decode queries) is kept from
// request to request, so that another budget costs a selection and a measurement.
//
//   LiveReplay live(*trace, *backend, {});
//   LiveRun run = live.plan(parse_policy("snapkv"), Budget::parse("10%"));
//   LiveLayer layer = live.evict(run, 3);        // when each token is evicted: enough for a first picture
//   live.measure(layer, {0, 8});                 // metrics of the first 8 decode steps
//   live.measure(layer, {8, -1});                // and of the others
//   std::span<const float> error = layer.values("output_error");   // [S]
//
// Evictions and values are those of replay(), bit for bit. One thread at a time; a CancelScope (core/base/parallel.h) around
// a call ends it early with Cancelled, and nothing half done stays.
#pragma once

#include <list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/metric/metric.h"
#include "core/policy/layer_workspace.h"
#include "core/replay/budget.h"
#include "core/trace/results.h"

namespace kvreplay {

class MetricTable;
struct LiveValues;
struct MeasuredSteps;

struct LiveOptions {
  // Empty: every metric that the trace has data for and that does not rank or sort (those take seconds on long traces).
  std::vector<const Metric*> metrics;
  // What may be kept between requests; the layer of the last request and the pinned one are kept in any case.
  std::int64_t memory_bytes = std::int64_t{768} << 20;
};

// A policy at a budget on one trace.
struct LiveRun {
  PolicySpec spec;
  std::shared_ptr<const Policy> policy;
  std::int64_t budget = 0;         // tokens per stored head, as settled
  std::vector<std::string> notes;  // what the user should know although there is a run
};

// What a run does to one layer. Copies share the measured values.
struct LiveLayer {
  int layer = 0;                     // the model's own index
  std::int64_t first_candidate = 0;  // the oldest prompt token that the sliding window shows when the prompt ends
  std::shared_ptr<const LayerEvictions> evictions;  // scores only where asked for
  std::vector<std::string> remarks;
  std::int64_t measured = 0;  // decode steps [0, measured) have their values

  std::vector<const Metric*> metrics() const;
  // One layer's values of a metric, without the layer axis: [Hq, S], [S], [Hq] or [Hq, S, regions] by the metric's axes.
  // NaN where a step is not measured yet or its query was not recorded; empty for a metric that this run has not.
  std::span<const float> values(const std::string& metric) const;

  std::shared_ptr<const LiveValues> measurement;  // what values() reads
};

class LiveReplay {
 public:
  // trace and backend outlive it.
  LiveReplay(const Trace& trace, Backend& backend, LiveOptions options);
  ~LiveReplay();

  const std::vector<const Metric*>& metrics() const { return metrics_; }

  // The layer on screen: it stays loaded while others are asked for.
  void pin(int layer) { pinned_ = layer; }
  std::vector<int> loaded_layers() const;  // those that are kept now, the last used first

  // Throws Error as replay() does: a budget below what the policy always keeps.
  LiveRun plan(PolicySpec spec, const Budget& budget) const;

  // When each token of the layer is evicted. Throws Error when the trace lacks what the policy needs.
  LiveLayer evict(const LiveRun& run, int layer, bool scores = false);

  // Values of the decode steps [steps.begin, steps.end). Steps from layer.measured on count as measured in order; others
  // (a step on screen before all those before it) may be measured ahead, and are measured again in their turn.
  void measure(LiveLayer& layer, IndexRange steps = {});

  // What a results file says of the run, from all of its layers in the order of Trace::layers(), each measured to its end.
  RunInfo info(const LiveRun& run, const std::string& budget_text, std::span<const LiveLayer* const> layers) const;

 private:
  struct KeptLayer {
    int layer = 0;
    std::shared_ptr<LoadedLayer> loaded;
    std::unique_ptr<LayerWorkspace> workspace;
  };
  KeptLayer& kept_layer(int layer);
  std::int64_t bytes_of_layer() const;

  const Trace& trace_;
  Backend& backend_;
  LiveOptions options_;
  std::vector<TextSpan> evidence_;
  EvaluationRequest needs_{false, false, false, false, false};
  std::vector<const Metric*> metrics_;
  std::shared_ptr<const MeasuredSteps> steps_;
  std::shared_ptr<const MetricTable> table_;
  std::shared_ptr<SharedValues> across_layers_ = std::make_shared<SharedValues>();
  std::list<KeptLayer> kept_;  // the last used first
  int pinned_ = -1;
};

}  // namespace kvreplay
