// Wrappers: what can be put around any policy by a key of its string, whatever the policy does by itself.
//
//   snapkv:schedule=every:64,target=256      evicts again while decoding
//   restkv:merge=pivot                       evicted rows are merged into kept ones
//   h2o:block=16                             the kept set in whole blocks, as a paged cache frees memory
//
// A wrapper is one file in core/policy/wrappers/ that defines `const PolicyWrapper& NAME_wrapper()` and one line in
// core/policy/wrappers.def. Wrappers that are switched on are applied in the order of that file, the first one innermost.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/policy/policy.h"

namespace kvreplay {

struct PolicyWrapper {
  std::string name;                   // its first parameter, which switches it on
  std::string idea;                   // one or two sentences
  std::vector<Parameter> parameters;  // defaults under wrapper_default
  // What an engine cannot do without: values of the first parameter that are usual there; empty for everything else.
  std::vector<std::string> constraints;
  // Throws Error when it cannot be put around this policy; `owner` starts the message ("policy snapkv@paper").
  std::function<std::unique_ptr<Policy>(const PolicySpec& spec, std::unique_ptr<Policy> inner, const std::string& owner)>
      wrap;

  bool is_active(const ParameterValues& values) const;
};

inline constexpr const char* wrapper_default = "";  // the key of Parameter::defaults for wrappers: no variants there

const std::vector<const PolicyWrapper*>& wrapper_registry();

// The policy under each usual engine constraint that can be put around it and is not put around it yet.
std::vector<PolicySpec> constrained_forms(const PolicySpec& spec);
// The policy without any; the same string when it has none.
PolicySpec unconstrained_form(const PolicySpec& spec);

// A policy around another one: everything but evict() is the inner one's.
class WrappedPolicy : public Policy {
 public:
  explicit WrappedPolicy(std::unique_ptr<Policy> inner) : inner_(std::move(inner)) {}
  Granularity granularity() const override { return inner_->granularity(); }
  std::int64_t minimum_budget() const override { return inner_->minimum_budget(); }
  std::int64_t fixed_budget() const override { return inner_->fixed_budget(); }
  bool evicts_while_decoding() const override { return inner_->evicts_while_decoding(); }
  bool acts_on_whole_prompts_only() const override { return inner_->acts_on_whole_prompts_only(); }
  bool changes_rows() const override { return inner_->changes_rows(); }
  bool compacts_positions() const override { return inner_->compacts_positions(); }

 protected:
  const Policy& inner() const { return *inner_; }
  // What the inner policy does, with its scores even where nobody asked for them.
  LayerEvictions evict_with_scores(LayerWorkspace& layer, std::int64_t budget) const;

 private:
  std::unique_ptr<Policy> inner_;
};

}  // namespace kvreplay
