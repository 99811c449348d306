// One layer of a trace during a replay: the loaded tensors, the backend, and everything that policies and budgets share.
#pragma once

#include <any>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "core/backend/backend.h"
#include "core/policy/policy.h"

namespace kvreplay {

class LayerWorkspace {
 public:
  LayerWorkspace(const Trace& trace, int layer, Backend& backend, bool wants_scores = false)
      : backend_(backend), loaded_(backend.load(trace, layer)), wants_scores_(wants_scores) {}

  Backend& backend() { return backend_; }
  const LoadedLayer& loaded() const { return *loaded_; }
  const Trace& trace() const { return *loaded_->trace; }
  const ModelInfo& model() const { return loaded_->trace->model(); }
  int layer() const { return loaded_->layer; }  // the model's own index
  bool wants_scores() const { return wants_scores_; }
  std::int64_t tokens() const { return loaded_->tokens; }
  std::int64_t prompt() const { return loaded_->prompt; }
  std::int64_t first_candidate() const { return loaded_->first_candidate; }
  std::int64_t candidates() const { return loaded_->candidates(); }

  // The value that `make` gives, computed once for each key. Keys name the stages that lead to the value
  // ("window_attention:32"), so policies that share stages share their results.
  template <class Value>
  const Value& shared(const std::string& key, const std::function<Value()>& make) {
    auto found = shared_.find(key);
    if (found == shared_.end()) found = shared_.emplace(key, std::make_any<Value>(make())).first;
    return std::any_cast<const Value&>(found->second);
  }
  // Attention rows of the last W prompt queries, shared by every policy with the same W.
  const AttentionRows& window_attention(int window);

  // Evictions with nothing evicted yet.
  LayerEvictions nothing_evicted(Granularity granularity) const;

 private:
  Backend& backend_;
  std::shared_ptr<LoadedLayer> loaded_;
  bool wants_scores_;
  std::map<std::string, std::any> shared_;
};

}  // namespace kvreplay
