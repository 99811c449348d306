// The stages of a policy that acts once, when the prompt ends: indicator → pooling → allocation → selection.
// core/policy/stages/kvpress.h has what the kvpress variants share.
//
// Each choice of a stage is one file in this folder and one line in the make_* function of its stage. Stages compose
// backend operations and look inside no tensor, so they run wherever the backend lives.
//
// Symbols as in core/backend/backend.h; H heads by granularity, W protected tokens (window and sinks), m = n - W columns
// that may be evicted, B = M - W tokens of the budget M that are left for them.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/policy/head_table.h"
#include "core/policy/layer_workspace.h"

namespace kvreplay {

// How scores of query heads become scores of stored heads.
struct Grouping {
  Granularity granularity = Granularity::kv_head;
  Reduction reduction = Reduction::mean;

  // [Hq, ...] to [H, ...].
  Array apply(LayerWorkspace& layer, const Array& scores) const;
  std::string key() const;
};

// Importance of every candidate.
class Indicator {
 public:
  virtual ~Indicator() = default;
  // Names what the score depends on, for sharing; the budget only where the score depends on it.
  virtual std::string key(std::int64_t budget) const = 0;
  virtual Array score(LayerWorkspace& layer, std::int64_t budget) const = 0;  // [H, n]
};

// An indicator's score, computed once for each key.
const Array& shared_score(const Indicator& indicator, LayerWorkspace& layer, std::int64_t budget);

// Weights of the W window queries, the oldest first (ReST-KV). temporal: sum, mean, ema, inv-ema or last.
std::vector<double> temporal_weights(const std::string& temporal, double alpha, int window);

// Attention received from the last W prompt queries (SnapKV, PyramidKV, AdaKV).
std::unique_ptr<Indicator> attention_indicator(int window, std::vector<double> weights, Grouping grouping);
// Attention received from all prompt queries (H2O).
std::unique_ptr<Indicator> accumulated_attention_indicator(ColumnMask mask, int window, Grouping grouping);
// The same times the norm of each value vector.
std::unique_ptr<Indicator> attention_value_indicator(int window, std::vector<double> weights, Grouping grouping);
// Minus the norm of each key: small keys are the ones that attract attention (L2-norm, Devoto et al. 2024).
std::unique_ptr<Indicator> key_norm_indicator(Grouping grouping);
// Attention received from the prompt queries, divided by how many of them can see the token (kvpress ObservedAttention).
std::unique_ptr<Indicator> observed_attention_indicator(Grouping grouping);
// The error of removing each token alone (ReST-KV).
struct ReconstructionSettings {
  int window = 32;
  std::vector<double> weights;  // over the window
  bool before = true;           // error of every window query, then the weights; else the weights on attention first
  ReconstructionForm form;
  std::string description;  // of the weights, for the key
};
std::unique_ptr<Indicator> reconstruction_indicator(ReconstructionSettings settings, Grouping grouping);
// Uniform numbers from a counter-based generator keyed by (seed, layer, head, position).
std::unique_ptr<Indicator> random_indicator(std::uint64_t seed, Granularity granularity);
// Full-cache attention mass over all decode steps: hindsight, unreachable.
std::unique_ptr<Indicator> oracle_attention_indicator(Grouping grouping);

// ‖W_o v‖₁ of every candidate, mean over the query heads of a KV head: [Hk, n]. Throws Error naming the dataset when the
// trace has no output_projection.
const Array& projected_value_norms(LayerWorkspace& layer);

struct PoolingContext {
  LayerWorkspace& layer;
  const Array& scores;  // [H, m]
  std::int64_t budget;  // M
};

class Pooling {
 public:
  virtual ~Pooling() = default;
  virtual Array pool(const PoolingContext& context) const = 0;  // [H, m]
};

std::unique_ptr<Pooling> no_pooling();
// Divides by the kernel at the edges too.
std::unique_ptr<Pooling> average_pooling(int kernel, Padding padding = Padding::zero);
std::unique_ptr<Pooling> max_pooling(int kernel);
// ReST-KV's adaptive window (its released code, "adaptive" pooling): the kernel and its shift follow the drift of the
// attended positions over the window.
struct AdaptivePoolingSettings {
  int window = 32;
  int kernel = 5;         // at least this wide
  double scale = 2000;    // tokens of drift for each step of kernel and shift
  bool released = false;  // ties in the top set to the highest position; shift floor(t / scale), + 1 for t <= 0
};
std::unique_ptr<Pooling> adaptive_pooling(AdaptivePoolingSettings settings, Grouping grouping);

struct AllocationContext {
  LayerWorkspace& layer;
  const Array& scores;  // [H, m], pooled
  std::int64_t budget;  // M
  int window;           // W, protected and counted in the budget
};

// How many of the m columns each head keeps.
class Allocation {
 public:
  virtual ~Allocation() = default;
  virtual std::vector<std::int64_t> capacity(const AllocationContext& context) const = 0;  // [H]
};

std::unique_ptr<Allocation> uniform_allocation();
// PyramidKV's arithmetic progression over layers.
enum class PyramidForm : std::uint8_t {
  exact,                     // real arithmetic: all layers together get exactly the nominal budget
  published,                 // integer arithmetic; every layer gets B when the prompt is shorter than 2B
  published_without_branch,  // integer arithmetic without that branch (ReST-KV's code)
};
std::unique_ptr<Allocation> pyramid_allocation(int beta, PyramidForm form);
// AdaKV: the H · B largest scores of the layer, whatever their head, say how much each head gets; `floor` of the budget is
// shared equally. normalize: each head's scores count by the share that its B best hold. exact: the heads
// together get exactly H · B; else each is rounded by itself, as published.
std::unique_ptr<Allocation> adaptive_allocation(double floor, bool normalize, bool exact);

// HeadKV: head budgets from a table of importances, over the heads of all layers.
struct HeadTableSettings {
  HeadTable table;
  double beta = 1.01;      // 1/beta of the budget is shared out by importance, the rest equally
  double temperature = 1;  // exponent of the importances
  // As published: the window comes on top of the budget. Each head is rounded by itself, unless exact.
  bool window_in_base = false;
  bool exact = false;  // all heads that evict together keep exactly M each on average
};
std::unique_ptr<Allocation> table_allocation(HeadTableSettings settings);

struct SelectionContext {
  LayerWorkspace& layer;
  const Array& scores;                        // [H, m], pooled
  const std::vector<std::int64_t>& capacity;  // [H], columns to keep
  std::int64_t budget;                        // B
  std::int64_t first_column = 0;              // candidate of column 0
};

// Which columns stay.
class Selection {
 public:
  virtual ~Selection() = default;
  // Ascending columns for every stored head of the policy's granularity.
  virtual std::vector<std::vector<std::int32_t>> select(const SelectionContext& context) const = 0;
  // What a results file gets as scores, one row a stored head: what the selection ranked.
  virtual Array ranked(const SelectionContext& context) const { return context.scores; }
};

std::unique_ptr<Selection> top_selection();  // the best of each head
// Whole chunks of `chunk` neighbouring columns, the last one shorter, by the mean of their scores; as many chunks as the
// capacity is of the columns, rounded down, at least one: what is kept differs from the budget. one_set: by the sum over
// the heads, the same for all of a layer. Fewer columns than a chunk are selected one by one. (ChunkKV)
std::unique_ptr<Selection> chunk_selection(int chunk, bool one_set);
// The best of each run of `chunk` columns by itself: the same share of each, rounded down, at least one. (kvpress
// ChunkPress)
std::unique_ptr<Selection> per_chunk_selection(int chunk);
// The best by score first, then the best by (score + epsilon) · projected_value_norms(); the first stage takes the share
// first_stage of a head's capacity, or the share `safeguard` of the budget where that is more. (CriticalKV)
std::unique_ptr<Selection> two_stage_selection(double first_stage, double epsilon, double safeguard);

struct OneShotStages {
  Granularity granularity = Granularity::kv_head;
  int window = 0;             // the last prompt tokens, always kept and never selected
  int sinks = 0;              // the first prompt tokens, likewise
  std::set<int> skip_layers;  // by the model's own index: these evict nothing
  std::unique_ptr<Indicator> indicator;
  std::unique_ptr<Pooling> pooling = no_pooling();
  std::unique_ptr<Allocation> allocation = uniform_allocation();
  std::unique_ptr<Selection> selection = top_selection();
};

std::unique_ptr<Policy> make_one_shot_policy(OneShotStages stages);

// Parameters that several presets have, so that a key means and allows the same everywhere. `defaults`: by variant.
using Defaults = std::map<std::string, std::string>;
Parameter choice_parameter(std::string key, std::string doc, std::vector<std::string> choices, Defaults defaults);
Parameter integer_parameter(std::string key, std::string doc, double minimum, double maximum, Defaults defaults);
Parameter real_parameter(std::string key, std::string doc, double minimum, double maximum, Defaults defaults);
Parameter boolean_parameter(std::string key, std::string doc, Defaults defaults);
Parameter text_parameter(std::string key, std::string doc, Defaults defaults);
Parameter window_parameter(Defaults defaults);
Parameter kernel_parameter(Defaults defaults);
Parameter pooling_parameter(std::vector<std::string> choices, Defaults defaults);
Parameter granularity_parameter(Defaults defaults);
Parameter group_parameter(Defaults defaults);
Parameter head_table_parameter(Defaults defaults);
Parameter allocation_parameter(Defaults defaults);
Parameter beta_parameter(Defaults defaults);
Granularity granularity_of(const ParameterValues& values);
Grouping grouping_of(const ParameterValues& values);
// The key kernel; throws Error naming the policy when it is even.
int odd_kernel_of(const PolicySpec& spec);
// Pooling as the keys pooling and kernel say; throws Error naming the policy when the kernel is even.
std::unique_ptr<Pooling> pooling_of(const PolicySpec& spec);
std::unique_ptr<Allocation> allocation_of(const PolicySpec& spec, PyramidForm form);

}  // namespace kvreplay
