// One layer of a trace during a replay: the loaded tensors, the backend, and everything that policies and budgets share.
#pragma once

#include <any>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/backend/backend.h"
#include "core/policy/policy.h"

namespace kvreplay {

// What is computed once for each key. Several threads may ask: one computes, the others wait for that key alone. `make` may
// ask for other keys.
class SharedValues {
 public:
  template <class Value>
  const Value& get(const std::string& key, const std::function<Value()>& make) {
    Entry& entry = entry_of(key);
    if (!entry.ready.load(std::memory_order_acquire)) {
      const std::lock_guard lock(entry.making);
      if (!entry.ready.load(std::memory_order_relaxed)) {
        entry.value = std::make_any<Value>(make());
        entry.ready.store(true, std::memory_order_release);
      }
    }
    return std::any_cast<const Value&>(entry.value);
  }
  // Nobody may hold a value of it, or ask for one meanwhile.
  void clear() {
    const std::lock_guard lock(mutex_);
    entries_.clear();
  }

 private:
  struct Entry {
    std::mutex making;
    std::atomic<bool> ready{false};
    std::any value;
  };
  Entry& entry_of(const std::string& key) {
    const std::lock_guard lock(mutex_);
    return entries_[key];
  }

  std::mutex mutex_;
  std::unordered_map<std::string, Entry> entries_;  // an entry stays where it is
};

// The oldest prompt token that a captured layer's sliding window still shows when the prompt ends: its first candidate.
std::int64_t first_candidate(const Trace& trace, int layer);

class LayerWorkspace {
 public:
  // across_layers: what the layers of one trace share; a workspace that is given none shares with no other.
  LayerWorkspace(const Trace& trace, int layer, Backend& backend, bool wants_scores = false,
                 std::shared_ptr<SharedValues> across_layers = std::make_shared<SharedValues>())
      : LayerWorkspace(backend.load(trace, layer), backend, wants_scores, std::move(across_layers)) {}
  // A layer that the same backend has loaded.
  LayerWorkspace(std::shared_ptr<LoadedLayer> loaded, Backend& backend, bool wants_scores,
                 std::shared_ptr<SharedValues> across_layers)
      : backend_(backend),
        loaded_(std::move(loaded)),
        wants_scores_(wants_scores),
        across_layers_(std::move(across_layers)) {}

  // The same layer through another backend (one that rounds); nothing computed is shared with `other`.
  LayerWorkspace(LayerWorkspace& other, Backend& backend, std::shared_ptr<SharedValues> across_layers)
      : backend_(backend),
        loaded_(other.loaded_),
        budgets_are_settled_(other.budgets_are_settled_),
        across_layers_(std::move(across_layers)) {}

  Backend& backend() { return backend_; }
  const LoadedLayer& loaded() const { return *loaded_; }
  const Trace& trace() const { return *loaded_->trace; }
  const ModelInfo& model() const { return loaded_->trace->model(); }
  int layer() const { return loaded_->layer; }  // the model's own index
  bool wants_scores() const { return wants_scores_; }
  void set_wants_scores(bool wanted) { wants_scores_ = wanted; }
  std::int64_t tokens() const { return loaded_->tokens; }
  std::int64_t prompt() const { return loaded_->prompt; }
  std::int64_t first_candidate() const { return loaded_->first_candidate; }
  std::int64_t candidates() const { return loaded_->candidates(); }

  // The value that `make` gives, computed once for each key. Keys name the stages that lead to the value
  // ("window_attention:32"), so policies that share stages share their results.
  template <class Value>
  const Value& shared(const std::string& key, const std::function<Value()>& make) {
    return shared_.get<Value>(key, make);
  }
  // Between two evictions: what is asked for again is made again.
  void forget_shared() { shared_.clear(); }
  // The same for the whole trace: what a policy must know of every layer before any layer is evicted (KVzip ranks over all
  // layers). `make` runs at the first layer that asks, and may read any layer of trace(); keep only what is small, and no
  // Array: other layers may be with other backends. Not from inside a body of parallel_for, whose threads another layer's
  // `make` may wait for.
  template <class Value>
  const Value& shared_across_layers(const std::string& key, const std::function<Value()>& make) {
    return across_layers_->get<Value>(key, make);
  }
  // A dataset of the layer on the host, all of it, read once.
  const Tensor<float, 3>& host(LayerDataset which);
  // In views of single heads whose budgets were divided earlier: what divides a budget among heads gives each all of it.
  bool budgets_are_settled() const { return budgets_are_settled_; }
  void settle_budgets() { budgets_are_settled_ = true; }
  // Attention rows of the last W prompt queries, shared by every policy with the same W.
  const AttentionRows& window_attention(int window);

  // Something that whoever reads the results should know of this layer; repeats are dropped. The replay collects remarks
  // after each eviction and adds them to the notes of the run.
  void remark(const std::string& text);
  std::vector<std::string> take_remarks() { return std::exchange(remarks_, {}); }

  // Evictions with nothing evicted yet.
  LayerEvictions nothing_evicted(Granularity granularity) const;

 private:
  Backend& backend_;
  std::shared_ptr<LoadedLayer> loaded_;
  bool wants_scores_ = false, budgets_are_settled_ = false;
  SharedValues shared_;
  std::vector<std::string> remarks_;
  std::shared_ptr<SharedValues> across_layers_;
};

}  // namespace kvreplay
