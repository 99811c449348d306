// Are one's own policies known by their names once registered, and do the rules catch what breaks them?
#include "core/policy/conformance.h"

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/policy/layer_workspace.h"

namespace kvreplay {
namespace {

// Keeps the last tokens, and does wrong what it is told to.
enum class Fault {
  none,
  one_too_many,
  always_evicts,
  remembers,
  looks_ahead,
  evicts_hidden,
  wrong_shape,
  early_step,
  throws
};

class FaultyPolicy final : public Policy {
 public:
  explicit FaultyPolicy(Fault fault) : fault_(fault) {}
  Granularity granularity() const override { return Granularity::layer; }
  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    if (fault_ == Fault::throws) throw Error("faulty", "does not feel like it");
    LayerEvictions result = layer.nothing_evicted(fault_ == Fault::wrong_shape ? Granularity::kv_head : Granularity::layer);
    if (budget >= layer.candidates() && fault_ != Fault::always_evicts) return result;
    std::int64_t end = layer.prompt() - std::min(budget, layer.prompt() - 1);
    if (fault_ == Fault::one_too_many) --end;
    const std::int64_t first = fault_ == Fault::evicts_hidden ? 0 : layer.first_candidate();
    for (std::int64_t t = first; t < end; ++t) result.evicted_at(0, t) = 0;
    const auto swap = [&](std::int64_t kept, std::int64_t evicted) {
      std::swap(result.evicted_at(0, kept), result.evicted_at(0, evicted));
    };
    if (fault_ == Fault::remembers && calls_++ % 4 == 1) swap(end - 1, end);
    if (fault_ == Fault::looks_ahead && layer.tokens() % 2 == 1) swap(end - 1, end);
    if (fault_ == Fault::early_step && layer.tokens() > layer.prompt() + 2) result.evicted_at(0, layer.prompt() + 2) = 1;
    return result;
  }

 private:
  Fault fault_;
  mutable int calls_ = 0;  // what a policy must not have
};

PolicyDescription description_of(const std::string& name, Fault fault) {
  PolicyDescription description;
  description.name = name;
  description.idea = "Keeps the last tokens.";
  description.variants = {{"paper", "a test", ""}};
  description.make = [fault](const PolicySpec&) { return std::make_unique<FaultyPolicy>(fault); };
  return description;
}

std::vector<std::string> broken_by(Fault fault, const ConformanceOptions& options = {}) {
  const PolicyDescription description = description_of("faulty", fault);
  // With the keys that every policy has, at their defaults.
  return broken_rules(PolicySpec{&description, "paper", parse_policy("full").values, {}}, options);
}

TEST(Conformance, APolicyThatKeepsTheRulesBreaksNone) {
  EXPECT_EQ(broken_by(Fault::none), std::vector<std::string>{});
  for (const char* name : {"snapkv", "restkv", "h2o", "tova", "streaming_llm", "random", "oracle_attention", "pyramidkv"})
    EXPECT_EQ(broken_rules(name), std::vector<std::string>{}) << name;
}

TEST(Conformance, EveryRuleCatchesWhatBreaksIt) {
  const auto breaks = [](Fault fault, const std::string& rule) {
    std::string all;
    for (const std::string& broken : broken_by(fault)) all += broken + "\n";
    EXPECT_NE(all.find("faulty breaks the rule \"" + rule + "\": "), std::string::npos) << all;
  };
  breaks(Fault::one_too_many, "budget");
  breaks(Fault::always_evicts, "everything");
  breaks(Fault::remembers, "memory");
  breaks(Fault::looks_ahead, "foresight");
  breaks(Fault::evicts_hidden, "window");
  breaks(Fault::wrong_shape, "shape");
  breaks(Fault::early_step, "shape");
  breaks(Fault::throws, "memory");
}

TEST(Conformance, BudgetsThatFollowRulesOfTheirOwnAreLetOff) {
  EXPECT_EQ(broken_by(Fault::one_too_many, {48, false}), std::vector<std::string>{});
}

TEST(RegisteredPolicies, AreFoundByNameLikeAnyOther) {
  static const PolicyDescription description = description_of("test_last", Fault::none);  // stays for the whole program
  register_policy(description);
  const std::string name = "test_last";
  EXPECT_EQ(&find_policy(name), &description);
  EXPECT_EQ(broken_rules(name), std::vector<std::string>{});
  EXPECT_EQ(find_policy(name).idea, "Keeps the last tokens.");
  EXPECT_EQ(parse_policy(name).label(), name);
  EXPECT_EQ(parse_policy(name).text(), name + "@paper");
}

std::string refusal(const PolicyDescription& description) {
  try {
    register_policy(description);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(RegisteredPolicies, ThatCannotBeToldApartOrMadeAreRefused) {
  EXPECT_NE(refusal(description_of("snapkv", Fault::none)).find("is the name of a policy already"), std::string::npos);
  for (const char* name : {"", "has space", "a@b", "a:b", "a,b", "a=b", "Upper"})
    EXPECT_NE(refusal(description_of(name, Fault::none)).find("is no name for a policy"), std::string::npos) << name;
  PolicyDescription bare = description_of("test_bare", Fault::none);
  bare.variants.clear();
  EXPECT_NE(refusal(bare).find("has no variant"), std::string::npos);
  bare = description_of("test_bare", Fault::none);
  bare.make = nullptr;
  EXPECT_NE(refusal(bare).find("make"), std::string::npos);
  EXPECT_THROW(find_policy("test_bare"), Error) << "what was refused is not there";
}

}  // namespace
}  // namespace kvreplay
