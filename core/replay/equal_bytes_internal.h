// Budgets at equal bytes: for every policy the nominal budget at which its cache really takes no more than given bytes.
//
// Nominal tokens are not bytes: sets per query head cost Hq rows, a pyramid may exceed its sum, layers that are skipped keep
// everything, whole chunks round. So policies are run, evictions alone, at a few budgets in each pass over the layers, and
// the search goes on between the budgets where the bytes cross the goal. A layer is loaded once a pass, whatever the number
// of policies and budgets. Internal to core/replay.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "core/backend/backend.h"
#include "core/base/job.h"
#include "core/policy/layer_workspace.h"

namespace kvreplay {

struct EqualBytesBudget {
  std::int64_t budget = 0;       // nominal tokens per stored head; 0: the policy takes more than the goal at any budget
  std::int64_t cache_bytes = 0;  // what it takes there; without a budget, the least that it takes
};

// The search for one policy, apart from what bytes are computed from.
class BudgetSearch {
 public:
  // Nominal budgets from `lowest` to `highest`; bytes_of_token: of one token in every stored head of every layer.
  BudgetSearch(std::int64_t lowest, std::int64_t highest, std::int64_t bytes_of_token)
      : lowest_(lowest), highest_(highest), bytes_of_token_(bytes_of_token) {}

  void learn(std::int64_t budget, std::int64_t bytes) { known_[budget] = bytes; }
  // The budgets whose bytes have to be known next; empty when result() is decided.
  std::vector<std::int64_t> next(std::int64_t goal) const;
  EqualBytesBudget result(std::int64_t goal) const;

 private:
  using Known = std::map<std::int64_t, std::int64_t>;
  Known::const_iterator best(std::int64_t goal) const;  // the largest known budget within the goal

  std::int64_t lowest_, highest_, bytes_of_token_;
  Known known_;  // budget: bytes
};

// [policy][goal]. goals: bytes of the whole cache right after the prompt's eviction. across_layers: what the layers share.
std::vector<std::vector<EqualBytesBudget>> equal_bytes_budgets(const Trace& trace,
                                                               const std::vector<const Policy*>& policies,
                                                               const std::vector<std::int64_t>& goals, Backend& backend,
                                                               const std::shared_ptr<SharedValues>& across_layers, Job& job);

}  // namespace kvreplay
