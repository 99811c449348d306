// What a backend measures of a run: the sums from which every metric of data/metrics.md follows. Metrics
// (core/metric) are small functions of these and never touch a tensor, so a new metric needs no kernel.
//
// For one layer, one recorded query at position t, one query head, with attention a over the visible keys N, the kept
// set K and the evicted set E = N \ K (data/metrics.md):
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/base/tensor.h"

namespace kvreplay {

// Regions of the sequence: sinks (first 4), three thirds of the prompt between, the last 32 prompt positions, generated.
inline constexpr int num_regions = 6;
inline constexpr std::array<const char*, num_regions> region_names = {"sinks",      "first third", "second third",
                                                                      "last third", "recent",      "generated"};
// Begin of each region for a prompt of P tokens, and the end of the last one: region r is [bounds[r], bounds[r + 1]).
std::array<std::int64_t, num_regions + 1> region_bounds(std::int64_t prompt, std::int64_t tokens);

// One query head at one decode step, for one run.
struct HeadStep {
  bool recorded = true;                           // false: the query is not in the trace, nothing below is meaningful
  std::int64_t visible = 0;                       // |N|
  std::int64_t evicted = 0;                       // |E|
  double evicted_mass = 0;                        // Σ_E a
  double kept_log_sum_exp = 0;                    // ln Σ_K exp(z)
  double full_log_sum_exp = 0;                    // ln Σ_N exp(z)
  double redistribution_kl = 0;                   // KL(a' ‖ a); full_log_sum_exp - kept_log_sum_exp where no row changed
  double output_norm = 0;                         // ‖o‖
  double difference_norm = 0;                     // ‖o' - o‖
  double displacement = 0;                        // ‖o' - o_E‖; 0 when nothing is evicted, or rows were changed
  double single_removal_sum = 0;                  // Σ_E a / (1 - a) · ‖o - v‖
  double entropy = 0;                             // -Σ a ln a, nats
  double oracle_overlap = 0;                      // share of the |K| largest a that is in K
  std::array<double, num_regions> mass_before{};  // Σ a over each region
  std::array<double, num_regions> mass_after{};   // Σ a' over each region
  // The vectors themselves, from a backend that has them at hand; else empty. No metric needs them.
  std::span<const double> output;          // o [d]
  std::span<const double> kept_output;     // o' [d]
  std::span<const double> evicted_output;  // o_E [d]; meaningful when evicted > 0
};

// All heads of one layer at one decode step: outputs summed over heads through W_o, or concatenated without it.
struct LayerStep {
  bool recorded = true;
  bool projected = true;        // false: the trace has no W_o, the vectors are the concatenated heads
  std::int64_t evicted = 0;     // Σ_h |E|
  double difference_norm = 0;   // ‖Σ W_h (o' - o)‖
  double output_norm = 0;       // ‖Σ W_h o‖
  double kept_output_norm = 0;  // ‖Σ W_h o'‖
  double inner_product = 0;     // <Σ W_h o, Σ W_h o'>
};

// The sums that cost something and are computed only when a metric asks for them.
struct EvaluationRequest {
  bool outputs = true;  // the norms of outputs, and LayerStep
  bool single_removals = true;
  bool overlap = true;
  bool regions = true;
  bool entropy = true;
  // Decode steps [first_step, end_step) alone, -1: to the last. A backend may measure the others, too.
  std::int64_t first_step = 0, end_step = -1;
  // Full attention of the steps is kept with the layer, up to so many bytes, for the next runs on it: who evaluates one run
  // after another waits for it once. A backend may keep nothing. The values are the same.
  std::int64_t keep_bytes = 0;
};

// Rows of a cache that a policy changed beside evicting: values into which others were merged, keys turned to a new
// position. A change after step s (0: when the prompt ended) holds for the queries of every later step.
struct CacheChanges {
  struct Row {
    std::int32_t step = 0;
    std::int32_t head = 0;  // a stored head: query head under Granularity::query_head, else KV head
    std::int32_t position = 0;
    std::int64_t key = -1, value = -1;  // row of `storage` with the new vector; -1: unchanged
  };
  std::int64_t heads = 0;      // stored heads: Hq or Hk
  std::int64_t dim = 0;        // d
  std::vector<Row> rows;       // by step, then in the order in which they apply
  std::vector<float> storage;  // [.., d]

  bool empty() const { return rows.empty(); }
  // Copies a vector of d numbers to the storage and returns its row.
  template <class Number>
  std::int64_t store(std::span<const Number> vector) {
    storage.insert(storage.end(), vector.begin(), vector.end());
    return static_cast<std::int64_t>(storage.size()) / dim - 1;
  }
};

// The prompt tokens that each stored head holds when the prompt ends, where nothing is evicted later: all that a policy has
// to say that evicts once. It takes a few bytes a kept token, evicted_at four for every token of the trace.
struct KeptSets {
  std::vector<std::int64_t> offset;    // [H + 1]: head h holds position[offset[h]] to position[offset[h + 1] - 1]
  std::vector<std::int32_t> position;  // ascending within a head; none below the layer's first candidate, all below P

  std::int64_t heads() const { return static_cast<std::int64_t>(offset.size()) - 1; }  // Hq, Hk or 1
  std::span<const std::int32_t> operator[](std::int64_t head) const {
    const auto h = static_cast<std::size_t>(head);
    return std::span(position).subspan(static_cast<std::size_t>(offset[h]),
                                       static_cast<std::size_t>(offset[h + 1] - offset[h]));
  }
};

// The same as evicted_at [H, T]: 0 for the candidates that are not kept, -1 for everything else (tokens that the sliding
// window took were not evicted).
Tensor<std::int32_t, 2> evicted_at_of(const KeptSets& kept, std::int64_t first_candidate, std::int64_t prompt,
                                      std::int64_t tokens);

// One run's evictions in one layer, in one of two forms.
struct RunEvictions {
  TensorView<const std::int32_t, 2> evicted_at;  // [H, T], H is Hq, Hk or 1; empty where `kept` is given
  const CacheChanges* changes = nullptr;         // null or empty: no row changed
  const KeptSets* kept = nullptr;

  std::int64_t heads() const { return kept != nullptr ? kept->heads() : evicted_at.dim(0); }
};

// Receives the results; called for every run, head and step in any order, from several threads, each cell once.
class EvaluationSink {
 public:
  virtual ~EvaluationSink() = default;
  virtual void head(std::size_t run, int query_head, std::int64_t step, const HeadStep& values) = 0;
  virtual void layer(std::size_t run, std::int64_t step, const LayerStep& values) = 0;
};

}  // namespace kvreplay
