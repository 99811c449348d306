// The rules that hold for every policy, as a check that one's own can be put to:
//
//   register_policy(mine_policy());
//   for (const std::string& broken : broken_rules("mine:window=8")) std::cerr << broken << "\n";
//
// It runs the policy on small random traces (3 layers, 4 query heads over 2 KV heads, 96 prompt tokens and 8 generated ones,
// every query recorded, W_o included) and takes well under a second.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/policy/policy.h"

namespace kvreplay {

struct ConformanceOptions {
  std::int64_t budget = 48;      // tokens per stored head; at least what the policy always keeps, below 64
  bool keeps_its_budget = true;  // false: what it keeps follows its own rule (rounded head budgets, skipped layers)
};

// One line for each rule that the policy breaks; empty when it keeps them all:
//   string      the string that it prints makes the same policy again
//   shape       evicted_at has a row for each head of its granularity, and no impossible step
//   budget      all layers and heads together keep the budget to the token when the prompt ends
//   everything  a budget for everything evicts nothing
//   memory      the same input gives the same output, whatever was replayed before
//   foresight   what happens at a step follows from the tokens up to it (hindsight bounds are let off)
//   window      tokens that a sliding window has taken are left alone
// An Error that the policy throws is a broken rule too. Throws Error when the string is no policy.
std::vector<std::string> broken_rules(const std::string& policy, const ConformanceOptions& options = {});
// The same for a policy that need not be registered; one that is not has no string to keep the first rule with.
std::vector<std::string> broken_rules(const PolicySpec& spec, const ConformanceOptions& options = {});

}  // namespace kvreplay
