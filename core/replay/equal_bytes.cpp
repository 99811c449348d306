#include <algorithm>
#include <set>

#include "core/replay/budget.h"
#include "core/replay/cache_account_internal.h"
#include "core/replay/equal_bytes_internal.h"

namespace kvreplay {
namespace {

constexpr std::int64_t grid = 5;        // budgets of one pass, beside those that interpolation names
constexpr std::int64_t look_ahead = 8;  // bytes need not rise with every token: how far a fall is looked for

// Inner points of (low, high): evenly spaced, and the two around `guess`.
std::vector<std::int64_t> between(std::int64_t low, std::int64_t high, double guess) {
  std::set<std::int64_t> points;
  for (std::int64_t i = 1; i <= grid; ++i) points.insert(low + (high - low) * i / (grid + 1));
  const auto near = static_cast<std::int64_t>(guess);
  points.insert({near, near + 1});
  std::erase_if(points, [&](std::int64_t point) { return point <= low || point >= high; });
  return {points.begin(), points.end()};
}

std::int64_t stored_tokens(LayerWorkspace& workspace, const Policy& policy, std::int64_t budget) {
  const auto stored = [&](const RunEvictions& run) {
    return stored_after_prompt(workspace.loaded(), policy.granularity(), run);
  };
  if (const auto kept = policy.keep(workspace, budget)) return stored({{}, nullptr, &*kept});
  return stored({policy.evict(workspace, budget).evicted_at});
}

}  // namespace

BudgetSearch::Known::const_iterator BudgetSearch::best(std::int64_t goal) const {
  const auto found = std::find_if(known_.rbegin(), known_.rend(), [&](const auto& entry) { return entry.second <= goal; });
  return found == known_.rend() ? known_.end() : std::prev(found.base());
}

std::vector<std::int64_t> BudgetSearch::next(std::int64_t goal) const {
  if (known_.empty()) {
    const std::int64_t guess = std::clamp(goal / bytes_of_token_, lowest_, highest_);
    return guess < highest_ ? std::vector{guess, guess + 1} : std::vector{guess};
  }
  const auto inside = best(goal);
  if (inside == known_.end()) {
    const auto& [above, bytes] = *known_.begin();
    if (above == lowest_) return {};
    auto points =
        between(lowest_, above, static_cast<double>(above) * static_cast<double>(goal) / static_cast<double>(bytes));
    points.push_back(lowest_);
    return points;
  }
  const auto& [low, low_bytes] = *inside;
  if (low_bytes == goal || low == highest_) return {};
  const auto outside = std::next(inside);
  if (outside == known_.end()) {
    auto points =
        between(low, highest_, static_cast<double>(low) + static_cast<double>((goal - low_bytes) / bytes_of_token_));
    points.push_back(highest_);
    return points;
  }
  const auto& [high, high_bytes] = *outside;
  if (high > low + 1)
    return between(low, high,
                   static_cast<double>(low) + static_cast<double>(high - low) * static_cast<double>(goal - low_bytes) /
                                                  static_cast<double>(high_bytes - low_bytes));
  if (high_bytes - low_bytes == bytes_of_token_) return {};  // as plain a policy as there is
  std::vector<std::int64_t> ahead;
  for (std::int64_t budget = high + 1; budget <= std::min(low + look_ahead, highest_); ++budget)
    if (!known_.contains(budget)) ahead.push_back(budget);
  return ahead;
}

EqualBytesBudget BudgetSearch::result(std::int64_t goal) const {
  const auto inside = best(goal);
  return inside == known_.end() ? EqualBytesBudget{0, known_.begin()->second}
                                : EqualBytesBudget{inside->first, inside->second};
}

std::vector<std::vector<EqualBytesBudget>> equal_bytes_budgets(const Trace& trace,
                                                               const std::vector<const Policy*>& policies,
                                                               const std::vector<std::int64_t>& goals, Backend& backend,
                                                               const std::shared_ptr<SharedValues>& across_layers,
                                                               Job& job) {
  std::vector<BudgetSearch> searches;
  for (const Policy* policy : policies) {
    const std::int64_t prompt = trace.prompt_length(), fixed = policy->fixed_budget();
    const std::int64_t lowest = fixed > 0 ? fixed : std::min(prompt, std::max<std::int64_t>(1, policy->minimum_budget()));
    searches.emplace_back(lowest, fixed > 0 ? fixed : prompt,
                          static_cast<std::int64_t>(trace.layers().size()) *
                              stored_heads(policy->granularity(), trace.model()) * token_bytes(trace));
  }
  for (;;) {
    std::vector<std::map<std::int64_t, std::int64_t>> stored(policies.size());  // budget: stored tokens
    std::size_t asked = 0;
    for (std::size_t p = 0; p < policies.size(); ++p) {
      for (const std::int64_t goal : goals)
        for (const std::int64_t budget : searches[p].next(goal)) stored[p][budget] = 0;
      asked += stored[p].size();
    }
    if (asked == 0) break;
    job.begin("finding budgets of equal bytes", static_cast<double>(asked * trace.layers().size()), "evictions");
    double done = 0;
    for (const int layer : trace.layers()) {
      LayerWorkspace workspace(trace, layer, backend, false, across_layers);
      for (std::size_t p = 0; p < policies.size(); ++p)
        for (auto& [budget, tokens] : stored[p]) {
          job.check();
          tokens += stored_tokens(workspace, *policies[p], budget);
          job.advance_to(++done);
        }
    }
    job.end();
    for (std::size_t p = 0; p < policies.size(); ++p)
      for (const auto& [budget, tokens] : stored[p]) searches[p].learn(budget, tokens * token_bytes(trace));
  }
  std::vector<std::vector<EqualBytesBudget>> results;
  for (const BudgetSearch& search : searches) {
    results.emplace_back();
    for (const std::int64_t goal : goals) results.back().push_back(search.result(goal));
  }
  return results;
}

}  // namespace kvreplay
