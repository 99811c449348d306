// Eviction while decoding for any scorer: every n steps the cache is cut back to a target by the policy itself, acting on
// what the cache then holds (kvpress calls this a DecodingPress).
#include <algorithm>
#include <charconv>

#include "core/base/error.h"
#include "core/policy/retained_layer.h"
#include "core/policy/stages/stages.h"
#include "core/policy/wrappers/wrapper.h"

namespace kvreplay {
namespace {

class ScheduledPolicy final : public WrappedPolicy {
 public:
  ScheduledPolicy(std::unique_ptr<Policy> inner, int every, int target)
      : WrappedPolicy(std::move(inner)), every_(every), target_(target) {}
  bool evicts_while_decoding() const override { return true; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = inner().evict(layer, budget);
    Cache cache = after_prompt(layer, result);
    for (std::int64_t step = every_; step <= layer.loaded().steps(); step += every_) {
      append(layer, step, cache);
      shrink(layer, step, budget, cache, result);
    }
    return result;
  }

 private:
  struct Cache {
    std::vector<std::vector<std::int32_t>> held;  // [H] positions, ascending
    std::vector<std::int64_t> share;              // [H] tokens that each head was given; empty: all the same
    std::int64_t appended = 0;                    // decode steps whose tokens are in `held`
  };

  static Cache after_prompt(const LayerWorkspace& layer, const LayerEvictions& evictions) {
    Cache cache;
    const std::int64_t heads = evictions.evicted_at.dim(0);
    cache.held.resize(static_cast<std::size_t>(heads));
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t i = layer.first_candidate(); i < layer.prompt(); ++i)
        if (evictions.evicted_at(h, i) < 0) cache.held[static_cast<std::size_t>(h)].push_back(static_cast<std::int32_t>(i));
    if (!is_even(cache)) note_shares(cache);
    return cache;
  }

  static bool is_even(const Cache& cache) {
    return std::all_of(cache.held.begin(), cache.held.end(),
                       [&](const auto& head) { return head.size() == cache.held.front().size(); });
  }

  static void note_shares(Cache& cache) {
    for (const auto& head : cache.held) cache.share.push_back(static_cast<std::int64_t>(head.size()));
  }

  static void append(const LayerWorkspace& layer, std::int64_t step, Cache& cache) {
    const std::int64_t end = layer.prompt() + step, low = layer.loaded().first_visible(end - 1);
    for (auto& head : cache.held) {
      for (std::int64_t i = layer.prompt() + cache.appended; i < end; ++i) head.push_back(static_cast<std::int32_t>(i));
      head.erase(head.begin(), std::lower_bound(head.begin(), head.end(), low));
    }
    cache.appended = step;
  }

  void shrink(LayerWorkspace& layer, std::int64_t step, std::int64_t budget, Cache& cache, LayerEvictions& result) const {
    const std::int64_t target = target_ > 0 ? target_ : budget;
    if (cache.share.empty() && is_even(cache)) {
      cut(layer, step, target, 0, true, cache.held, result);
      if (!is_even(cache)) note_shares(cache);
      return;
    }
    // Heads that were given different budgets keep them, each on its own; so do heads of which a sliding window hides
    // different numbers of tokens.
    std::int64_t total = 0;
    for (const std::int64_t share : cache.share) total += share;
    const std::int64_t mean = std::max<std::int64_t>(1, total / static_cast<std::int64_t>(cache.held.size()));
    for (std::size_t h = 0; h < cache.held.size(); ++h) {
      const std::int64_t own = cache.share.empty() ? target : target_ > 0 ? target * cache.share[h] / mean : cache.share[h];
      std::vector<std::vector<std::int32_t>> head = {std::move(cache.held[h])};
      cut(layer, step, own, static_cast<int>(h), false, head, result);
      cache.held[h] = std::move(head.front());
    }
  }

  // Lets the policy act on the slots of `held`, the sets of the stored heads from first_head on.
  void cut(LayerWorkspace& layer, std::int64_t step, std::int64_t target, int first_head, bool cache_is_even,
           std::vector<std::vector<std::int32_t>>& held, LayerEvictions& result) const {
    target = std::max(target, inner().minimum_budget());
    if (held.front().empty() || target >= static_cast<std::int64_t>(held.front().size())) return;
    const auto trace = retained_layer(layer, {granularity(), first_head, held});
    LayerWorkspace view(*trace, layer.layer(), layer.backend());
    if (!cache_is_even) view.settle_budgets();
    const LayerEvictions again = inner().evict(view, target);
    for (const std::string& remark : view.take_remarks()) layer.remark(remark);
    for (std::size_t h = 0; h < held.size(); ++h) {
      std::vector<std::int32_t> kept;
      for (std::size_t slot = 0; slot < held[h].size(); ++slot) {
        const std::int32_t position = held[h][slot];
        if (again.evicted_at(static_cast<std::int64_t>(h), static_cast<std::int64_t>(slot)) < 0)
          kept.push_back(position);
        else
          result.evicted_at(first_head + static_cast<std::int64_t>(h), position) = static_cast<std::int32_t>(step);
      }
      held[h] = std::move(kept);
    }
  }

  int every_, target_;
};

// "every:64" to 64; throws Error.
int interval(const std::string& owner, const std::string& text) {
  int every = 0;
  const std::string prefix = "every:";
  const char* end = text.data() + text.size();
  if (text.starts_with(prefix)) {
    const auto [stop, error] = std::from_chars(text.data() + prefix.size(), end, every);
    if (error == std::errc{} && stop == end && every >= 1) return every;
  }
  throw Error(owner, "\"" + text + "\" is not allowed for \"schedule\"",
              "it takes prompt, or every:n with n decode steps between evictions");
}

Parameter schedule_parameter() {
  return text_parameter("schedule", "when to evict: prompt, or every:n decode steps (every:64)",
                        {{wrapper_default, "prompt"}});
}

}  // namespace

const PolicyWrapper& schedule_wrapper() {
  static const PolicyWrapper wrapper = {
      .name = "schedule",
      .idea =
          "Evicts when the prompt ends and again every n decode steps, each time down to the target, by the same policy "
          "acting "
          "on what the cache then holds: its last W tokens and their queries are the window. Heads that were given "
          "different "
          "budgets when the prompt ended keep them. Between two evictions generated tokens are appended.",
      .parameters = {schedule_parameter(),
                     integer_parameter("target", "tokens left after an eviction while decoding; 0: the budget", 0, 16777216,
                                       {{wrapper_default, "0"}})},
      .constraints = {},
      .wrap = [](const PolicySpec& spec, std::unique_ptr<Policy> inner,
                 const std::string& owner) -> std::unique_ptr<Policy> {
        const int every = interval(owner, spec.values.text("schedule")), target = spec.values.integer("target");
        if (inner->evicts_while_decoding() || spec.description->hindsight)
          throw Error(owner, "\"schedule\" cannot be put around it",
                      spec.description->hindsight ? "it looks at queries that are still to come"
                                                  : "it evicts after every decode step by itself");
        if (inner->acts_on_whole_prompts_only())
          throw Error(owner, "\"schedule\" cannot be put around it", "its scores are those of the whole prompt");
        if (inner->changes_rows())
          throw Error(owner, "\"schedule\" cannot be put around a policy that changes rows of the cache");
        if (target > 0 && target < inner->minimum_budget())
          throw Error(owner, "\"" + std::to_string(target) + "\" is not allowed for \"target\"",
                      "it always keeps " + std::to_string(inner->minimum_budget()));
        return std::make_unique<ScheduledPolicy>(std::move(inner), every, target);
      },
  };
  return wrapper;
}

}  // namespace kvreplay
