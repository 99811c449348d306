// A run in memory: when each token of each layer was evicted, and the metrics. It comes from a live replay or from a results
// file, layer by layer; what has not come yet is null or NaN. A Run is a value that never changes: as more comes, the store
// gets a new one that shares the layers of the old.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/policy/policy.h"
#include "core/trace/results.h"
#include "gui/model/state.h"

namespace kvreplay::gui {

// What a run did to one layer.
struct RunLayer {
  std::shared_ptr<const LayerEvictions> evictions;  // never null
  // By metric, without the layer axis: [Hq, S], [S], [Hq] or [Hq, S, regions]; NaN where it is not measured (yet).
  std::map<std::string, MetricValues> metrics;
  bool measured = false;  // every step has its values

  // [rows, T]: -1 never, 0 when the prompt ended, s after decode step s.
  const Tensor<std::int32_t, 2>& evicted_at() const { return evictions->evicted_at; }
  // [rows, P]: what the policy ranked by, NaN where it gave none; empty where it is not known.
  const Tensor<float, 2>& scores() const { return evictions->scores; }
};

struct Run {
  RunSpec spec;
  std::string label;  // "snapkv:window=16 · 10%": for legends and headings
  RunInfo info;       // of a live run: policy, preset, budget and granularity at once, the rest when it is complete
  Granularity granularity = Granularity::kv_head;
  int query_heads = 0, rows = 0;  // rows of evicted_at: Hq, Hk or 1
  std::int64_t tokens = 0, prompt = 0;
  int steps = 0;
  std::vector<std::shared_ptr<const RunLayer>> layers;  // null: not there yet
  std::vector<std::string> notes;                       // what the user should know ("nothing was evicted")
  std::string problem;                                  // why there is no run, one line; empty: there is
  bool complete = false;                                // every layer is there and measured

  int num_layers() const { return static_cast<int>(layers.size()); }
  std::shared_ptr<const RunLayer> layer(int layer) const {
    return layer >= 0 && layer < num_layers() ? layers[static_cast<std::size_t>(layer)] : nullptr;
  }
  // The row of evicted_at that a query head reads.
  int row_of(int query_head) const { return query_heads > 0 ? query_head * rows / query_heads : 0; }

  // Whether a query head's cache still holds the token after `step` (0: when the prompt ended). True for tokens that come
  // later, and while the layer is not there.
  bool kept(int layer, int query_head, std::int64_t token, int step) const;
  // Tokens that a row holds after `step`, of those that were there by then. -1 while the layer is not there.
  std::int64_t kept_count(int layer, int row, int step) const;
  // Tokens evicted at `step`, over the rows of a layer.
  std::int64_t evicted_count(int layer, int step) const;

  // One value, NaN where there is none (yet). step counts from 1: the first decode step. By the metric's axes, query_head or
  // step may be -1: then the mean over those that have a value.
  double value(const std::string& metric, int layer, int query_head, int step) const;
  // Which metrics the layers that are there have, ascending.
  std::vector<std::string> metric_names() const;
};

}  // namespace kvreplay::gui
