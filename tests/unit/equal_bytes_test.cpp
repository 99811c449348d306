// Do policies that are compared at equal bytes really take equal bytes?
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/replay/equal_bytes_internal.h"
#include "tests/unit/replay_runs.h"

namespace kvreplay {
namespace {

using namespace replay_runs;

constexpr std::int64_t token = 2 * 8 * 4;  // bytes of one head's key and value, head dimension 8, float32

// The largest budget within the goal, by trying all, against the search; and how many budgets the search asked for.
std::size_t search_finds_the_best(const std::function<std::int64_t(std::int64_t)>& bytes, std::int64_t goal) {
  constexpr std::int64_t lowest = 8, highest = 5000;
  BudgetSearch search(lowest, highest, 10);
  std::size_t asked = 0, passes = 0;
  for (auto next = search.next(goal); !next.empty(); next = search.next(goal)) {
    asked += next.size();
    EXPECT_LT(++passes, 12U);
    for (const std::int64_t budget : next) search.learn(budget, bytes(budget));
  }
  EqualBytesBudget best{0, bytes(lowest)};
  for (std::int64_t budget = lowest; budget <= highest; ++budget)
    if (bytes(budget) <= goal) best = {budget, bytes(budget)};
  const EqualBytesBudget found = search.result(goal);
  EXPECT_EQ(found.cache_bytes, best.cache_bytes) << "goal " << goal;
  if (found.cache_bytes != goal) {
    EXPECT_EQ(found.budget, best.budget) << "goal " << goal;
  }
  return asked;
}

TEST(EqualBytes, TheSearchFindsWhatTryingAllBudgetsFinds) {
  for (const std::int64_t goal : {9LL, 80LL, 1000LL, 12345LL, 50000LL, 999999LL}) {
    EXPECT_LE(search_finds_the_best([](std::int64_t n) { return 10 * n; }, goal), 30U) << "linear policies are cheap";
    search_finds_the_best([](std::int64_t n) { return 40 * n; }, goal);                          // a row each query head
    search_finds_the_best([](std::int64_t n) { return 20 * ((n + 6) / 7) * 7; }, goal);          // whole chunks
    search_finds_the_best([](std::int64_t n) { return 2500 + 5 * n; }, goal);                    // skipped layers
    search_finds_the_best([](std::int64_t n) { return 10 * n + (n % 3 == 0 ? 0 : 15); }, goal);  // not rising
    search_finds_the_best([](std::int64_t n) { return static_cast<std::int64_t>(n * std::sqrt(n)); }, goal);
  }
  EXPECT_EQ(search_finds_the_best([](std::int64_t n) { return 10 * n; }, 12340), 2U) << "the first guess is right";
}

std::vector<RunInfo> at_equal_bytes(const std::vector<std::string>& policies, const std::vector<std::string>& budgets,
                                    std::vector<std::string>* warnings = nullptr, Shape shape = two_layers()) {
  const Folder folder;
  ReplayRequest request;
  request.equal_bytes = true;
  auto outcome = run(folder, reference::random_contents(shape), policies, budgets, request);
  if (warnings != nullptr) *warnings = outcome.warnings;
  return outcome.runs;
}

// Sets per query head cost twice the rows here, so half the tokens; one set for the layer is stored for every KV head.
TEST(EqualBytes, UniformPoliciesTakeTheSameBytesToTheByte) {
  for (const RunInfo& info : at_equal_bytes({"snapkv", "snapkv:window=8,granularity=query_head", "h2o", "streaming_llm",
                                             "random", "knorm", "pyramidkv:window=8", "adakv:window=8", "tova"},
                                            {"40", "50%", "20480B"})) {
    SCOPED_TRACE(info.policy);
    EXPECT_EQ(info.cache_bytes, info.budget_text == "20480B" ? 20480 / (4 * token) * 4 * token : 2 * 2 * 40 * token);
    EXPECT_EQ(info.equal_bytes, info.budget_text == "20480B" ? 20480 : 2 * 2 * 40 * token);
    EXPECT_EQ(info.equal_bytes_tokens, info.budget_text == "20480B" ? 80 : 40);
    if (info.budget_text != "20480B") {
      EXPECT_EQ(info.budget, info.granularity == "query_head" ? 20 : 40);
    }
  }
}

TEST(EqualBytes, OthersStayBelowByLessThanOneTokenPerHeadAndLayer) {
  for (const RunInfo& info :
       at_equal_bytes({"pyramidkv@released:window=8", "snapkv:window=8,granularity=query_head"}, {"41", "21999B", "55"})) {
    SCOPED_TRACE(info.policy + " " + info.budget_text);
    EXPECT_LE(info.cache_bytes, info.equal_bytes);
    EXPECT_GT(info.cache_bytes, info.equal_bytes - 2 * 4 * token) << "two layers, four query heads";
    EXPECT_LT(info.budget, info.equal_bytes_tokens);
  }
}

// Head budgets that are rounded one by one have coarser steps; one token more is still too much.
TEST(EqualBytes, OneTokenMoreWouldExceedTheBytes) {
  const Folder folder;
  for (const std::string policy : {"adakv@released:window=8", "pyramidkv@released:window=8"})
    for (const RunInfo& info : at_equal_bytes({policy}, {"41", "21999B", "55"})) {
      SCOPED_TRACE(policy + " " + info.budget_text);
      const auto contents = reference::random_contents(two_layers());
      const auto same = run(folder, contents, {policy}, {std::to_string(info.budget)}).runs[0];
      EXPECT_EQ(same.kept_sha256, info.kept_sha256) << "the run is that of its nominal budget";
      EXPECT_LE(info.cache_bytes, info.equal_bytes);
      EXPECT_GT(run(folder, contents, {policy}, {std::to_string(info.budget + 1)}).runs[0].cache_bytes, info.equal_bytes);
    }
}

TEST(EqualBytes, APolicyThatCannotGoThatLowHasNoRunAndIsNamed) {
  std::vector<std::string> warnings;
  const auto runs = at_equal_bytes({"snapkv:granularity=query_head", "random", "full"}, {"40", "70"}, &warnings);
  ASSERT_EQ(runs.size(), 5U);
  EXPECT_EQ(runs[0].budget, 35);
  EXPECT_EQ(runs[3].preset, "full");
  EXPECT_EQ(runs[3].cache_bytes, runs[3].full_cache_bytes);
  ASSERT_FALSE(warnings.empty());
  // 32 tokens of the window in four heads of two layers.
  EXPECT_NE(warnings[0].find("takes at least " + std::to_string(2 * 4 * 32 * token)), std::string::npos) << warnings[0];
  try {
    at_equal_bytes({"snapkv:granularity=query_head"}, {"40"});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("at least 16384 bytes"), std::string::npos) << error.what();
  }
}

// A layer with a sliding window holds no more than it shows, whatever the budget: so many tokens per KV head take less.
TEST(EqualBytes, SlidingWindowsCountAsWhatTheyShow) {
  Shape shape = two_layers();
  shape.sliding_window = 36;
  const auto runs = at_equal_bytes({"snapkv", "h2o"}, {"40", "34"}, nullptr, shape);
  EXPECT_EQ(runs[0].cache_bytes, 2 * 2 * 36 * token);
  EXPECT_EQ(runs[1].cache_bytes, 2 * 2 * 34 * token);
  EXPECT_EQ(runs[3].cache_bytes, runs[1].cache_bytes);
}

}  // namespace
}  // namespace kvreplay
