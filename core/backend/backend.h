// The operations of a replay that cost time, on tensors that live where the backend lives. Two implementations are
// meant: CpuBackend (core/backend/cpu, the reference) and a CUDA one behind the same interface.
//
// Life cycle: one backend for a process, or several (some for each device) among which layers are spread; for each layer of
// a trace, load() once, then the policies' stages call the scoring operations, then evaluate() measures what the kept sets
// do to the decode queries. One thread at a time, but for a load() ahead (BackendPlan).
//
//   auto backend = make_cpu_backend();
//   auto layer = backend->load(*trace, 0);
//   AttentionRows rows = backend->window_attention(*layer, 32, true);
//   Array score = backend->reduce_rows(rows.weight, std::vector<double>(32, 1.0));
//
// Symbols: Hq query heads, Hk KV heads, G = Hq / Hk, d head dimension, T tokens, P prompt tokens, S = T - P decode steps,
// W window queries (the last W of the prompt), n candidates: the prompt tokens that the layer's sliding window still
// shows when the prompt ends (all P without one). Columns of every score are candidates, the oldest first.
// Scores are float32 or better whatever the trace holds.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/backend/array.h"
#include "core/backend/evaluation.h"
#include "core/trace/trace.h"

namespace kvreplay {

// One layer of a trace, loaded by a backend. Derived classes hold the tensors.
struct LoadedLayer {
  virtual ~LoadedLayer() = default;

  const Trace* trace = nullptr;
  int layer = 0;  // the model's own index
  int num_query_heads = 0, num_kv_heads = 0, head_dim = 0, hidden_size = 0;
  double attention_scale = 0;
  double logit_softcap = 0;          // 0: none
  int sliding_window = 0;            // 0: none
  std::int64_t tokens = 0;           // T
  std::int64_t prompt = 0;           // P
  std::int64_t first_candidate = 0;  // position of column 0

  int group() const { return num_query_heads / num_kv_heads; }
  std::int64_t candidates() const { return prompt - first_candidate; }  // n
  std::int64_t steps() const { return tokens - prompt; }                // S
  // The oldest position that a query at `position` sees.
  std::int64_t first_visible(std::int64_t position) const {
    return sliding_window > 0 ? std::max<std::int64_t>(0, position - sliding_window + 1) : 0;
  }
};

// Attention of the last W prompt queries. Row w belongs to position P - W + w; a weight is 0 past the row's own position.
struct AttentionRows {
  Array weight;    // [H, W, n], normalised over every key that the query sees (also those that are no candidates)
  Array dominant;  // [H, W, 2]: column of the weight above 1/2, or -1, and 1 - that weight, summed from the others
  Array output;    // [H, W, d]: Σ weight · value over every visible key; empty unless asked for
  Array rest;      // [H, W, d]: the same without the dominant column: what is left when a - 1 and o - v cancel
};

enum class Reduction : std::uint8_t { mean, max, sum };
enum class Ties : std::uint8_t { lowest, highest };  // which position wins among equal scores
enum class Padding : std::uint8_t { zero, replicate };

// Which queries see which keys when attention is summed over all prompt queries.
enum class ColumnMask : std::uint8_t {
  causal,
  // Queries before the last W see every key, also later ones: what the code released with ReST-KV does for H2O.
  full_before_window,
};

// How the reconstruction error of a removal is formed from attention (ReST-KV).
struct ReconstructionForm {
  bool project = true;         // ‖W_h (o - v)‖ instead of ‖o - v‖
  bool normalize = false;      // divided by ‖W_h o‖ (rows only)
  double tau = 1;              // exponent of the norm (aggregated and projected only)
  bool prefix_output = false;  // aggregated: o from the keys before the window alone, not renormalised (released code)
};

// How a replay is to use a backend, and what that takes of its memory; known before the first layer is loaded.
struct BackendPlan {
  // load() of the next layer may run on another thread beside every other operation on this one, and both layers fit.
  bool loads_ahead = false;
  // Runs that evaluate() is best given together; 0: as many as take no more of this process's memory than a layer does.
  std::size_t runs_at_once = 0;
  // What arrays that runs share may take (Backend::array_bytes()) before the replay lets them go and has them made again;
  // 0: no bound.
  std::int64_t shared_bytes = 0;
  // What is told to the user: "2 layers of 1.1 GB and 0.6 GB to work in, of 140 GB"; empty: nothing.
  std::string memory = {};
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;  // "cpu"

  // For a replay of so many runs. Throws Error when not even one layer of the trace fits.
  virtual BackendPlan plan(const Trace& /*trace*/, std::size_t /*runs*/, const EvaluationRequest& /*request*/) const {
    return {};
  }
  // Bytes that this backend's arrays hold now, where it counts them: layers are not among them.
  virtual std::int64_t array_bytes() const { return 0; }
  virtual std::shared_ptr<LoadedLayer> load(const Trace& trace, int layer) = 0;
  virtual std::vector<float> download(const Array& array) = 0;  // row-major
  virtual Array upload(const std::vector<std::int64_t>& shape, const std::vector<float>& values) = 0;

  // ---- attention ---------------------------------------------------------------------------------------------------
  // Throws Error when the trace has not recorded the last `window` prompt queries.
  virtual AttentionRows window_attention(const LoadedLayer& layer, int window, bool with_output) = 0;
  // [Hq, n]: Σ over all prompt queries of the attention each candidate receives. `window` matters for
  // full_before_window alone. The trace's own attention_column_sum is used where it means the same.
  virtual Array column_sums(const LoadedLayer& layer, ColumnMask mask, int window) = 0;
  // [Hq, n]: Σ over the decode queries of full-cache attention.
  virtual Array decode_attention_sum(const LoadedLayer& layer) = 0;
  // Logits scale · q·k (soft-capped) of one query head's decode queries with all keys: [S, T] on the host, -inf where the
  // query does not see the key, NaN rows for queries that were not recorded.
  virtual Tensor<float, 2> decode_logits(const LoadedLayer& layer, int query_head) = 0;

  // ---- scores ------------------------------------------------------------------------------------------------------
  // The error that removing each candidate alone causes, for every window query: odds · ‖T (o - v)‖. [Hq, W, n]
  virtual Array removal_error_rows(const LoadedLayer& layer, const AttentionRows& rows, const ReconstructionForm& form) = 0;
  // The same from attention that was averaged over the window with `weights` [W] first. [Hq, n]
  virtual Array removal_error_of_mean(const LoadedLayer& layer, const AttentionRows& rows,
                                      const std::vector<double>& weights, const ReconstructionForm& form) = 0;
  // Σ_w weights[w] · rows[h, w, :]. [H, n]
  virtual Array reduce_rows(const Array& rows, const std::vector<double>& weights) = 0;
  // Over the G query heads of each KV head: [Hq, ...] to [Hk, ...].
  virtual Array reduce_group(const Array& scores, int group, Reduction how) = 0;
  // Norms of the candidates' keys or values: [Hk, n].
  virtual Array key_norms(const LoadedLayer& layer) = 0;
  virtual Array value_norms(const LoadedLayer& layer) = 0;
  // factor · scores, element by element; `scores` may have G times the heads of `factors`, which then repeat.
  virtual Array multiply(const Array& scores, const Array& factors, double factor) = 0;
  // Only the first `columns` columns.
  virtual Array prefix(const Array& scores, std::int64_t columns) = 0;

  // ---- smoothing over positions ------------------------------------------------------------------------------------
  // Average over kernel[h] columns centred at i + shift[h]; zero padding divides by the kernel, replicate padding repeats
  // the edge. [H, m] to [H, m]
  virtual Array average_pool(const Array& scores, const std::vector<int>& kernel, const std::vector<int>& shift,
                             Padding padding) = 0;
  virtual Array max_pool(const Array& scores, int kernel) = 0;
  // Mean column of the `count` largest weights of every row: [H][W] on the host.
  virtual std::vector<std::vector<double>> mean_top_column(const Array& rows, std::int64_t count, Ties ties) = 0;

  // ---- selection ---------------------------------------------------------------------------------------------------
  // For each head the count[h] columns with the largest scores, ascending. NaN ranks first; ties go to the lowest column.
  virtual std::vector<std::vector<std::int32_t>> select_top(const Array& scores, const std::vector<std::int64_t>& count) = 0;

  // ---- what the kept sets do ---------------------------------------------------------------------------------------
  // Measures the runs' evictions at every decode step. See core/backend/evaluation.h.
  virtual void evaluate(const LoadedLayer& layer, const std::vector<RunEvictions>& runs, const EvaluationRequest& request,
                        EvaluationSink& sink) = 0;
};

std::unique_ptr<Backend> make_cpu_backend();

}  // namespace kvreplay
