// Eviction policies: what a preset is, how a policy string becomes one, and what it does to a layer.
//
//   NAME[@VARIANT][:key=value,key=value,...]        restkv@released:window=32,alpha=0.3,scale=2000
//
// Life cycle: parse_policy() gives a PolicySpec (a value; text() makes the same policy again), make_policy() the object.
// It has no state that outlives a call: replaying one sequence cannot change the next. For each layer a replay makes one
// LayerWorkspace and calls evict() for every budget; what depends on the layer alone is kept in the workspace and shared.
//
// A new policy is one file in core/policy/presets/ that defines `const PolicyDescription& NAME_policy()` and one line in
// core/policy/policies.def. CONTRIBUTING.md walks through one.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/backend/evaluation.h"
#include "core/base/parameter.h"
#include "core/base/tensor.h"
#include "core/trace/trace.h"

namespace kvreplay {

class LayerWorkspace;

// One kept set per query head, per KV head, or for the whole layer.
enum class Granularity : std::uint8_t { query_head, kv_head, layer };
std::string_view granularity_name(Granularity granularity);  // "query_head", "kv_head", "layer"

// Rows of evicted_at for a model: Hq, Hk or 1.
std::int64_t granularity_heads(Granularity granularity, const ModelInfo& model);
// Heads whose rows a cache has to store: Hq for query_head, else Hk.
std::int64_t stored_heads(Granularity granularity, const ModelInfo& model);

// What one policy at one budget did to one layer.
struct LayerEvictions {
  Tensor<std::int32_t, 2> evicted_at;  // [H, T]: -1 never, 0 when the prompt ended, s after decode step s
  Tensor<float, 2> scores;             // [H, P], NaN where the policy gave none; empty for policies without scores
  CacheChanges changes;                // keys and values that are no longer the recorded ones; mostly empty
};

class Policy {
 public:
  virtual ~Policy() = default;
  virtual Granularity granularity() const = 0;
  // Tokens per head that the policy always keeps: a smaller budget is an error (unless nothing has to be evicted).
  virtual std::int64_t minimum_budget() const { return 1; }
  // Sizes written in the string ("heavy", "size", ...) win over the budget: the tokens they ask for, or 0.
  virtual std::int64_t fixed_budget() const { return 0; }
  // Evicts after decode steps by itself: no schedule can be put on it.
  virtual bool evicts_while_decoding() const { return false; }
  // Needs more of the prompt than the keys, values and queries of what a cache holds later: no schedule either.
  virtual bool acts_on_whole_prompts_only() const { return false; }
  // May fill LayerEvictions::changes: metrics that are identities of unchanged rows are then left out.
  virtual bool changes_rows() const { return false; }
  // Turns kept keys to their slots: position_mode "compacted" in a results file.
  virtual bool compacts_positions() const { return false; }
  // budget: tokens per stored head when the prompt ends, at least minimum_budget() or at least the layer's candidates.
  virtual LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const = 0;
  // The same evictions as kept sets, where the policy evicts when the prompt ends and never again: far less memory and time
  // in a sweep of many runs. Without them, or where they would be larger than evicted_at, none.
  virtual std::optional<KeptSets> keep(LayerWorkspace& /*layer*/, std::int64_t /*budget*/) const { return std::nullopt; }
};

// The values of a spec's parameters, all of them, defaults filled in.
class ParameterValues {
 public:
  ParameterValues() = default;
  explicit ParameterValues(std::map<std::string, std::string> values) : values_(std::move(values)) {}
  bool has(const std::string& key) const { return values_.count(key) != 0; }
  const std::string& text(const std::string& key) const { return values_.at(key); }
  int integer(const std::string& key) const;
  double real(const std::string& key) const;
  bool boolean(const std::string& key) const { return values_.at(key) == "true"; }
  const std::map<std::string, std::string>& all() const { return values_; }

 private:
  std::map<std::string, std::string> values_;
};

struct PolicySpec;

struct PolicyVariant {
  std::string name;         // "paper", "released", ...
  std::string source;       // what it reproduces: a paper with its year, or repository and commit
  std::string differences;  // where it departs from the other variants, one or two sentences
};

struct PolicyDescription {
  std::string name;
  std::string idea;                     // one line
  std::string paper;                    // authors, title, venue
  std::string stages;                   // "indicator attention (last W queries) → sum → max pooling → top-k + window"
  std::string needs;                    // what it needs from a trace
  std::vector<PolicyVariant> variants;  // the first is the default
  std::vector<Parameter> parameters;    // in the order in which they are printed; a key without a default for a variant,
                                        // or whose condition does not hold, does not exist there
  std::function<std::unique_ptr<Policy>(const PolicySpec&)> make;
  bool hindsight = false;         // looks at queries that come after the eviction: a bound, nothing that could be deployed
  bool keeps_everything = false;  // evicts nothing at any budget, and is not to be warned about
};

struct PolicySpec {
  const PolicyDescription* description = nullptr;
  std::string variant;
  ParameterValues values;          // all parameters of the variant whose conditions hold
  std::vector<std::string> given;  // keys that were written in the string, in the order of the description

  std::string text() const;   // every parameter written out: makes the same policy whatever the defaults become
  std::string label() const;  // only what differs from the defaults: for tables and legends
  std::string parameters_json() const;
};

const std::vector<const PolicyDescription*>& policy_registry();
// Makes a policy of another program known by its name, to parse_policy() and everything that lists policies. `description`
// stays valid as long as the program runs. Before the first replay, from one thread. Throws Error for a name that is taken
// or has other characters than a-z, 0-9 and _, and for a description without a variant or without `make`.
void register_policy(const PolicyDescription& description);
const PolicyDescription& find_policy(const std::string& name);  // throws Error with the closest name

// Throws Error that names the policy, the key and what is allowed.
PolicySpec parse_policy(std::string_view text);
std::unique_ptr<Policy> make_policy(const PolicySpec& spec);

}  // namespace kvreplay
