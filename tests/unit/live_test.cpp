// Is one layer at a time the same as a replay, whatever was asked for before, and does work end when it is cancelled?
#include "core/replay/live.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>

#include "core/base/parallel.h"
#include "core/trace/synthetic.h"

namespace kvreplay {
namespace {

SyntheticParameters small() {
  SyntheticParameters parameters;
  parameters.layers = 2;
  parameters.query_heads = 4;
  parameters.kv_heads = 2;
  parameters.head_dim = 16;
  parameters.prompt = 150;
  parameters.decode = 10;
  parameters.seed = 3;
  return parameters;
}

std::vector<float> copy(std::span<const float> values) { return {values.begin(), values.end()}; }

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

LiveLayer evaluated(LiveReplay& live, const std::string& policy, const std::string& budget,
                    const std::vector<IndexRange>& pieces) {
  LiveLayer layer = live.evict(live.plan(parse_policy(policy), Budget::parse(budget)), 1);
  for (const IndexRange piece : pieces) live.measure(layer, piece);
  return layer;
}

class Live : public testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Trace> trace = make_synthetic(small());
  std::unique_ptr<Backend> backend = make_cpu_backend();
};

TEST_P(Live, IsTheSameInOneGoAndInPieces) {
  LiveReplay once(*trace, *backend, {}), pieces(*trace, *backend, {});
  const LiveLayer whole = evaluated(once, GetParam(), "40%", {{0, -1}});
  evaluated(pieces, GetParam(), "70%", {{0, -1}});  // leaves full attention behind
  const LiveLayer parts = evaluated(pieces, GetParam(), "40%", {{7, 8}, {0, 1}, {1, 4}, {4, -1}});
  EXPECT_EQ(parts.measured, 10);
  ASSERT_FALSE(whole.metrics().empty());
  for (const Metric* metric : whole.metrics()) {
    const std::string& name = metric->info().name;
    EXPECT_TRUE(same_bits(copy(whole.values(name)), copy(parts.values(name)))) << name;
  }
}

TEST_P(Live, KeepsNothingOfMemoryThatItMayNotUse) {
  LiveOptions tight;
  tight.memory_bytes = 1;
  LiveReplay roomy(*trace, *backend, {}), poor(*trace, *backend, tight);
  for (const char* budget : {"70%", "40%"}) {
    const LiveLayer a = evaluated(roomy, GetParam(), budget, {{0, -1}}), b = evaluated(poor, GetParam(), budget, {{0, -1}});
    EXPECT_TRUE(same_bits(copy(a.values("output_error")), copy(b.values("output_error"))));
    EXPECT_FALSE(a.values("output_error").empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, Live, testing::Values("snapkv", "snapkv@released", "h2o", "tova", "snapkv:merge=pivot"),
                         [](const auto& test) { return std::to_string(test.index); });

TEST(ThePinnedLayer, StaysLoadedWhileOthersComeAndGo) {
  SyntheticParameters parameters = small();
  parameters.layers = 4;
  const auto trace = make_synthetic(parameters);
  const auto backend = make_cpu_backend();
  LiveOptions tight;
  tight.memory_bytes = 1;  // room for one layer
  LiveReplay live(*trace, *backend, tight);
  live.pin(2);
  const LiveRun run = live.plan(parse_policy("snapkv"), Budget::parse("40%"));
  for (const int layer : {2, 0, 1, 3}) live.evict(run, layer);
  EXPECT_EQ(live.loaded_layers(), (std::vector<int>{3, 2}));
  live.pin(3);
  live.evict(run, 0);
  EXPECT_EQ(live.loaded_layers(), (std::vector<int>{0, 3}));
}

TEST(LiveMeasurements, ThatAreNotThereAreNan) {
  const auto trace = make_synthetic(small());
  const auto backend = make_cpu_backend();
  LiveReplay live(*trace, *backend, {});
  LiveLayer layer = live.evict(live.plan(parse_policy("snapkv"), Budget::parse("40%")), 0);
  live.measure(layer, {3, 4});
  const auto error = layer.values("output_error");
  ASSERT_EQ(error.size(), 10U);
  for (std::size_t step = 0; step < error.size(); ++step) EXPECT_EQ(std::isnan(error[step]), step != 3) << step;
  EXPECT_EQ(layer.measured, 0);
  EXPECT_TRUE(layer.values("no_such_metric").empty());
}

TEST(Cancelling, EndsAParallelLoopAtItsNextPiece) {
  std::atomic<bool> cancelled{false};
  std::atomic<int> begun{0};
  const CancelScope scope(cancelled);
  EXPECT_THROW(parallel_for(1000, 1,
                            [&](std::int64_t, std::int64_t) {
                              ++begun;
                              cancelled = true;
                            }),
               Cancelled);
  EXPECT_LE(begun, thread_count());
}

TEST(Cancelling, HoldsForItsOwnScopeAlone) {
  std::atomic<bool> cancelled{true};
  {
    const CancelScope scope(cancelled);
    EXPECT_THROW(parallel_for(1, 1, [](std::int64_t, std::int64_t) {}), Cancelled);
  }
  int begun = 0;
  parallel_for(1, 1, [&](std::int64_t, std::int64_t) { ++begun; });
  EXPECT_EQ(begun, 1);
}

TEST(Cancelling, LeavesALiveReplayAsItWas) {
  const auto trace = make_synthetic(small());
  const auto backend = make_cpu_backend();
  LiveReplay live(*trace, *backend, {}), other(*trace, *backend, {});
  const LiveRun run = live.plan(parse_policy("restkv"), Budget::parse("40%"));
  std::atomic<bool> cancelled{true};
  {
    const CancelScope scope(cancelled);
    EXPECT_THROW(live.evict(run, 1), Cancelled);
  }
  LiveLayer layer = live.evict(run, 1);
  {
    const CancelScope scope(cancelled);
    EXPECT_THROW(live.measure(layer), Cancelled);
  }
  EXPECT_EQ(layer.measured, 0);
  live.measure(layer);
  const LiveLayer expected = evaluated(other, "restkv", "40%", {{0, -1}});
  EXPECT_TRUE(same_bits(copy(layer.values("output_error")), copy(expected.values("output_error"))));
}

}  // namespace
}  // namespace kvreplay
