// One layer of a trace through every run of a replay. Internal to core/replay.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/policy/layer_workspace.h"
#include "core/replay/cache_account_internal.h"
#include "core/replay/edit_internal.h"
#include "core/replay/layer_order_internal.h"
#include "core/replay/metric_sink_internal.h"
#include "core/replay/replay.h"
#include "core/replay/stability_internal.h"

namespace kvreplay {

// One policy at one budget, and what it has come to so far.
struct Run {
  const PolicySpec* spec = nullptr;
  std::unique_ptr<Policy> policy;
  std::int64_t budget = 0;
  int index = -1;  // in the results file
  RunInfo info;
  CacheAccount account;
  MetricTotals totals;
  const TokenEdit* edit = nullptr;  // of the request: this run is run number `base` with one token changed
  std::size_t base = 0;
  std::int64_t changed = 0;                // rows in which the edit changed something
  std::vector<LayerErrors> errors = {};    // by layer index, where runs with edits are compared
  std::unique_ptr<Policy> half = nullptr;  // the policy in half precision, where its stability is asked for
  KeptOverlap overlap = {};

  // Adds to its notes, and warns of it.
  void note(const std::string& text, Job& job);
};

// Identities of rows as recorded are absent where the policy merges or turns rows.
bool is_measured(const Policy& policy, const Metric& metric);

// What all layers of a replay share.
struct ReplayParts {
  const Trace& trace;
  const ReplayRequest& request;
  const std::vector<TextSpan>& evidence;
  const MetricTable& metrics;
  const MeasuredSteps& steps;
  const EvaluationRequest& needs;
  ResultsWriter& results;
  SharedJob& job;
  LayerOrder& order;
  std::vector<Run>& runs;

  // As the request has it, one call at a time.
  void on_worth(int run, const TokenWorth& worth) const;
};

class LayerReplay {
 public:
  // layer_index: among the trace's captured layers. loading: seconds.
  LayerReplay(const ReplayParts& parts, const BackendPlan& plan, LayerWorkspace& workspace, std::size_t layer_index,
              double loading);
  void run();

 private:
  // What one run did to the layer.
  struct Outcome {
    std::size_t run = 0;
    LayerEvictions evictions;
    std::optional<KeptSets> kept;  // instead of evictions.evicted_at
    std::int64_t changed = 0;      // rows that an edit changed
    std::optional<LayerEvictions> half;
    std::vector<std::string> remarks;
    std::vector<TokenWorth> worth;
    EncodedEvictions encoded;
    double seconds = 0;

    RunEvictions view() const;
    std::int64_t bytes() const;
  };

  std::size_t evict_batch(std::size_t first);
  Outcome evict(std::size_t run, std::size_t first);
  void bound_shared_scores();
  void measure(MetricSink& sink);
  void encode();
  void take_over(Outcome& outcome, const MetricSink& sink, std::size_t i);
  void write(Run& run, const Outcome& outcome, const MetricSink& sink, std::size_t i);
  std::int64_t room() const;
  std::int64_t bytes_of_measuring(const Run& run) const;

  const ReplayParts& parts_;
  const BackendPlan& plan_;
  LayerWorkspace& workspace_;
  std::size_t layer_index_;
  double loading_;   // seconds of each run
  bool needs_rows_;  // evicted_at is looked into or changed: no kept sets
  std::vector<Outcome> batch_;
};

}  // namespace kvreplay
