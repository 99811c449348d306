// Whole replays: every policy and variant on both backends.
//
// The rule for float32 traces: what is evicted is equal, token by token and step by step. Scores of random float32 numbers
// that differ by less than rounding are not met in these traces (seeds are fixed), and mathematically equal scores (pooled
// maxima, constant scores) are equal in either backend, where the lowest position wins. For float16 traces a share of the
// kept tokens may differ, those at the cut: at most 1 in 1,000.
#include <algorithm>
#include <filesystem>

#include "core/policy/policy.h"
#include "core/replay/replay.h"
#include "core/trace/synthetic.h"
#include "tests/gpu/comparison.h"
#include "tests/unit/policy_reference.h"
#include "tests/unit/replay_runs.h"

namespace kvreplay::gpu_test {
namespace {

using reference::Shape;

std::vector<std::string> every_policy_and_variant() {
  std::vector<std::string> names;
  for (const auto* policy : policy_registry())
    for (const auto& variant : policy->variants) names.push_back(policy->name + "@" + variant.name);
  return names;
}

class AnyPolicy : public GpuTest, public testing::WithParamInterface<std::string> {};
INSTANTIATE_TEST_SUITE_P(Registry, AnyPolicy, testing::ValuesIn(every_policy_and_variant()), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '@', '_');
  return name;
});

std::unique_ptr<Results> replayed(const replay_runs::Folder& folder, const Trace& trace, const std::string& policy,
                                  const std::vector<std::string>& budgets, Backend& backend) {
  ReplayRequest request;
  request.policies = {parse_policy(reference::complete(policy, trace.model().num_layers))};
  for (const auto& budget : budgets) request.budgets.push_back(Budget::parse(budget));
  request.scores = true;
  replay_runs::Collected job;
  const std::string path = folder.path + "/" + backend.name().substr(0, 3) + ".h5";
  ResultsWriter writer(path);
  replay(trace, request, backend, writer, job);
  writer.finish();
  return open_results(path);
}

// Values of metrics follow from fields that evaluate_test.cpp compares one by one; here a factor for what divides them.
void expect_same_metrics(const std::string& where, const Results& got, const Results& want, int run) {
  EXPECT_EQ(got.metric_names(run), want.metric_names(run)) << where;
  for (const auto& name : want.metric_names(run)) {
    const MetricValues a = got.metric(run, name), b = want.metric(run, name);
    double largest = 0;
    for (const float x : b.values)
      if (std::isfinite(x)) largest = std::max<double>(largest, std::abs(x));
    expect_close("replay, " + name, where, a.values, b.values,
                 [&](std::size_t i) { return 1e-3 * std::abs(b.values[i]) + 1e-5 * largest + 1e-9; });
  }
}

TEST_P(AnyPolicy, EvictsAndMeasuresAsOnTheCpu) {
  const replay_runs::Folder folder;
  for (const int head_dim : {8, 64}) {
    Shape shape;
    shape.layers = 2;
    shape.prompt = 90;
    shape.steps = 9;
    shape.seed = 17;
    shape.head_dim = head_dim;
    shape.hidden = head_dim + 16;
    const auto trace = make_memory_trace(reference::random_contents(shape));
    const std::vector<std::string> budgets = {"36", "60"};
    const auto want = replayed(folder, *trace, GetParam(), budgets, reference_backend());
    const auto got = replayed(folder, *trace, GetParam(), budgets, tested());
    ASSERT_EQ(got->num_runs(), want->num_runs());
    for (int run = 0; run < want->num_runs(); ++run) {
      const std::string where =
          GetParam() + ", d " + std::to_string(head_dim) + ", budget " + std::to_string(want->info(run).budget);
      const auto a = got->evicted_at(run), b = want->evicted_at(run);
      ASSERT_EQ(a.shape(), b.shape()) << where;
      const auto differing = std::inner_product(a.flat().begin(), a.flat().end(), b.flat().begin(), std::int64_t{0},
                                                std::plus<>(), [](auto x, auto y) { return x != y ? 1 : 0; });
      EXPECT_EQ(differing, 0) << where << ": entries of " << b.size();
      EXPECT_EQ(got->info(run).kept_sha256 == want->info(run).kept_sha256, differing == 0) << where;
      if (differing == 0) expect_same_metrics(where, *got, *want, run);
    }
  }
}

TEST_P(AnyPolicy, EvictsAndMeasuresAsOnTheCpuInASlidingWindow) {
  const replay_runs::Folder folder;
  Shape shape;
  shape.layers = 2;
  shape.prompt = 90;
  shape.steps = 5;
  shape.seed = 13;
  shape.sliding_window = 50;
  const PolicySpec spec = parse_policy(reference::complete(GetParam()));
  const std::string policy =
      spec.values.has("window") && spec.values.integer("window") > 32 ? GetParam() + ":window=32" : GetParam();
  const auto trace = make_memory_trace(reference::random_contents(shape));
  const auto want = replayed(folder, *trace, policy, {"36"}, reference_backend());
  const auto got = replayed(folder, *trace, policy, {"36"}, tested());
  const auto a = got->evicted_at(0), b = want->evicted_at(0);
  ASSERT_EQ(a.shape(), b.shape());
  EXPECT_TRUE(std::equal(a.flat().begin(), a.flat().end(), b.flat().begin())) << GetParam();
}

// Float16 at a length where a layer has many tiles: scores are rounded differently, so tokens at the cut may differ.
class KeptSets : public GpuTest, public testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Policies, KeptSets,
                         testing::Values("restkv", "restkv@released", "snapkv", "snapkv@released", "h2o@released", "knorm",
                                         "adakv", "keydiff", "oracle_attention"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '@', '_');
                           return name;
                         });

TEST_P(KeptSets, OfAFloat16TraceAgreeIn999Of1000Tokens) {
  SyntheticParameters parameters;
  parameters.layers = 1;
  parameters.query_heads = 8;
  parameters.kv_heads = 2;
  parameters.head_dim = 128;
  parameters.prompt = 6000;
  parameters.decode = 4;
  parameters.output_projection = SyntheticParameters::OutputProjection::gram;
  const auto trace = make_synthetic(parameters);
  const replay_runs::Folder folder;
  const auto want = replayed(folder, *trace, GetParam(), {"512", "1500"}, reference_backend());
  const auto got = replayed(folder, *trace, GetParam(), {"512", "1500"}, tested());
  for (int run = 0; run < want->num_runs(); ++run) {
    const auto a = got->evicted_at(run), b = want->evicted_at(run);
    std::int64_t kept = 0, shared = 0;
    for (std::int64_t i = 0; i < b.size(); ++i) {
      kept += b.data()[i] == -1 ? 1 : 0;
      shared += b.data()[i] == -1 && a.data()[i] == -1 ? 1 : 0;
    }
    expect_close("kept sets of float16 traces", GetParam(), static_cast<double>(shared), static_cast<double>(kept),
                 1e-3 * static_cast<double>(kept));
  }
}

}  // namespace
}  // namespace kvreplay::gpu_test
