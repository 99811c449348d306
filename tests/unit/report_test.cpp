// Comparing runs: are the statistics right, and do short names keep policies apart?
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/base/csv.h"
#include "core/base/error.h"
#include "core/policy/policy.h"
#include "core/report/comparison.h"
#include "core/report/metric_info.h"
#include "core/report/policy_label.h"

namespace kvreplay {
namespace {

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

TEST(ReportStatistics, QuantilesAreNumpysAndNanIsLeftOut) {
  // numpy.percentile([1, 2, 3, 10], [5, 50, 95, 99]) = [1.15, 2.5, 8.95, 9.79]
  const Distribution values = distribution_of({10, nan_value, 1, 3, 2});
  EXPECT_EQ(values.count, 4);
  EXPECT_DOUBLE_EQ(values.mean, 4);
  EXPECT_DOUBLE_EQ(values.median, 2.5);
  EXPECT_NEAR(values.p5, 1.15, 1e-12);
  EXPECT_NEAR(values.p95, 8.95, 1e-12);
  EXPECT_NEAR(values.p99, 9.79, 1e-12);
  EXPECT_TRUE(std::isnan(distribution_of({}).mean));
  EXPECT_TRUE(std::isnan(distribution_of({nan_value}).p99));
}

TEST(ReportStatistics, BootstrapCoversTheMeanAndRepeats) {
  const std::vector<double> values = {1, 2, 3, 4, 5, 6, 7, 8};
  const Interval once = bootstrap_mean(values), again = bootstrap_mean(values);
  EXPECT_EQ(once.low, again.low);
  EXPECT_EQ(once.high, again.high);
  // The standard error of this mean is 2.29 / √8 = 0.81; 95 % is 1.59 to either side, and a percentile bootstrap of eight
  // values falls short of that by a tenth or so.
  EXPECT_NEAR(once.low, 4.5 - 1.5, 0.3);
  EXPECT_NEAR(once.high, 4.5 + 1.5, 0.3);
  EXPECT_TRUE(std::isnan(bootstrap_mean(std::vector<double>{1.0}).low));
}

TEST(ReportLabels, SayWhatDiffersFromTheDefaults) {
  const std::string written = parse_policy("restkv:alpha=0.5").text();
  EXPECT_NE(written, "restkv:alpha=0.5");  // every parameter is in it
  EXPECT_EQ(policy_label(written), "restkv:alpha=0.5");
  EXPECT_EQ(policy_label(parse_policy("snapkv").text()), "snapkv");
  EXPECT_EQ(policy_label("from_a_newer_program@x:y=1"), "from_a_newer_program@x:y=1");
  EXPECT_TRUE(is_hindsight_bound("oracle_attention"));
  EXPECT_FALSE(is_hindsight_bound("snapkv"));
}

// Results in memory: two policies and a bound at two budgets, errors and evictions chosen.
class FakeResults final : public Results {
 public:
  struct Run {
    RunInfo info;
    float error = 0;
    std::int32_t kept = 0;
  };
  std::vector<Run> runs;

  void add(const std::string& policy, std::int64_t budget, float error, const std::string& granularity = "kv_head") {
    Run run;
    run.info.policy = policy;
    run.info.preset = policy.substr(0, policy.find('@'));
    run.info.budget = budget;
    run.info.trace = "t.h5";
    run.info.granularity = granularity;
    // Hk = 1 stored head when per KV head, Hq = 2 when per query head; 10 bytes a token.
    run.info.full_cache_bytes = 2 * 8 * 10;
    run.info.cache_bytes = 2 * budget * 10 * (granularity == "query_head" ? 2 : 1);
    run.error = error;
    run.kept = static_cast<std::int32_t>(budget);
    runs.push_back(run);
  }
  const std::string& path() const override { return path_; }
  int num_runs() const override { return static_cast<int>(runs.size()); }
  const RunInfo& info(int run) const override { return runs[static_cast<std::size_t>(run)].info; }
  std::vector<std::string> metric_names(int) const override { return {"output_error", "evicted_mass"}; }
  MetricValues metric(int run, const std::string& name) const override {
    const float e = runs[static_cast<std::size_t>(run)].error;
    const auto none = std::numeric_limits<float>::quiet_NaN();
    if (name == "output_error") return {{2, 3}, {"layer", "step"}, {}, {e, e, none, 3 * e, none, 3 * e}};
    return {{2, 2, 3}, {"layer", "query_head", "step"}, {}, {e, e, e, e, e, e, e, e, e, 2 * e, 2 * e, none}};
  }
  Tensor<std::int32_t, 3> evicted_at(int run) const override {
    const std::int64_t heads = heads_of(run);
    Tensor<std::int32_t, 3> all({2, heads, 11});
    for (std::int64_t layer = 0; layer < 2; ++layer)
      for (std::int64_t head = 0; head < heads; ++head)
        for (std::int64_t token = 0; token < 11; ++token)
          all(layer, head, token) = token < 8 && token >= runs[static_cast<std::size_t>(run)].kept ? 0 : -1;
    return all;
  }
  Tensor<std::int32_t, 2> evicted_at(int run, std::int64_t layer) const override {
    const Tensor<std::int32_t, 3> all = evicted_at(run);
    Tensor<std::int32_t, 2> one({all.dim(1), all.dim(2)});
    std::copy_n(&all(layer, 0, 0), one.size(), one.data());
    return one;
  }
  bool has_scores(int) const override { return false; }
  Tensor<float, 2> scores(int, std::int64_t) const override { return {}; }

 private:
  std::int64_t heads_of(int run) const { return info(run).granularity == "query_head" ? 2 : 1; }
  std::string path_ = "fake.h5";
};

FakeResults sample() {
  FakeResults results;
  results.add("oracle_attention", 2, 0.1F);
  results.add("oracle_attention", 4, 0.05F);
  results.add("good", 2, 0.2F);
  results.add("good", 4, 0.06F);
  results.add("bad@v:x=1", 2, 0.4F, "query_head");
  results.add("bad@v:x=1", 4, 0.3F, "query_head");
  results.add("full", 2, 0);
  results.runs.back().kept = 8;
  return results;
}

TEST(ReportComparison, PutsPoliciesBesideEachOtherAtEachBudget) {
  const FakeResults results = sample();
  Job job;
  const Comparison comparison = compare({&results}, {}, job);
  EXPECT_EQ(comparison.labels, (std::vector<std::string>{"good", "bad@v:x=1", "full", "oracle_attention"}));  // bounds last
  ASSERT_EQ(comparison.budgets.size(), 2U);
  EXPECT_EQ(comparison.budgets[0].budget, 2);
  EXPECT_EQ(comparison.budgets[0].ratio, 0.25);  // P = 11 tokens - 3 steps
  ASSERT_EQ(comparison.budgets[0].cells.size(), 4U);
  EXPECT_EQ(comparison.budgets[1].cells.size(), 3U);
  const MetricSummary& error = comparison.budgets[0].cells[0].metrics.at("output_error");
  EXPECT_EQ(error.over, "layers");
  EXPECT_NEAR(error.distribution.mean, 0.4, 1e-6);  // layers at 0.2 and 0.6
  EXPECT_NEAR(error.regret, 0.4 - 0.2, 1e-6);
  const MetricSummary& mass = comparison.budgets[0].cells[0].metrics.at("evicted_mass");
  EXPECT_EQ(mass.over, "heads");
  EXPECT_EQ(mass.distribution.count, 4);
  EXPECT_NEAR(mass.by_head[3], 0.4, 1e-6);
  EXPECT_EQ(best_cell(comparison, comparison.budgets[0], "output_error")->label, "good");  // not "full", not the bound
}

TEST(ReportComparison, CountsWhatWasEvictedAndSaysWhatIsOdd) {
  FakeResults results = sample();
  results.add("empty", 2, 1);
  results.runs.back().kept = 0;
  results.add("idle", 2, 0);
  results.runs.back().kept = 8;
  Job job;
  const Comparison comparison = compare({&results}, {}, job);
  EXPECT_EQ(comparison.runs[2].evicted, 2 * 6);  // two layers, one head, six of eight prompt tokens
  EXPECT_EQ(comparison.runs[4].evicted, 2 * 2 * 6);
  EXPECT_NEAR(comparison.runs[2].bytes_factor, 1, 1e-12);
  EXPECT_NEAR(comparison.runs[4].bytes_factor, 2, 1e-12);
  EXPECT_TRUE(comparison.runs[2].notes.empty());
  EXPECT_TRUE(comparison.runs[6].notes.empty()) << "the full cache evicts nothing by definition";
  EXPECT_EQ(comparison.runs[8].notes, (std::vector<std::string>{"nothing was evicted"}));
  EXPECT_EQ(comparison.runs[7].empty_heads, 2);
  EXPECT_FALSE(comparison.runs[7].notes.empty());
}

TEST(ReportComparison, KeptShareCountsHeads) {
  const FakeResults results = sample();
  Job job;
  const Comparison comparison = compare({&results}, {}, job);
  const std::vector<float> share = kept_share(comparison.runs[0]);
  ASSERT_EQ(share.size(), 11U);
  EXPECT_EQ(share[1], 1.0F);
  EXPECT_EQ(share[2], 0.0F);
  EXPECT_EQ(share[10], 1.0F);
}

TEST(ReportComparison, NoRunsIsAnError) {
  const FakeResults results;
  Job job;
  EXPECT_THROW(compare({&results}, {}, job), Error);
}

TEST(Csv, ReadsWhatItWrites) {
  const std::vector<std::string> odd = {"a", "b,c", "d\"e", "f\ng", ""};
  EXPECT_EQ(parse_csv(csv_line(odd) + csv_line({"x"}), "t"), (std::vector<std::vector<std::string>>{odd, {"x"}}));
  EXPECT_EQ(parse_csv("a,b\r\n\r\n\"1\",\r\n,2", "t"),
            (std::vector<std::vector<std::string>>{{"a", "b"}, {"1", ""}, {"", "2"}}));
  EXPECT_EQ(parse_csv("a,", "t"), (std::vector<std::vector<std::string>>{{"a", ""}}));
  for (const char* broken : {"a\n\"never", "\"a\"b\n"}) {
    EXPECT_THROW(parse_csv(broken, "t.csv"), Error) << broken;
  }
}

TEST(Csv, QuotesWhatNeedsIt) { EXPECT_EQ(csv_line({"a", "b,c", "d\"e", "f\ng", ""}), "a,\"b,c\",\"d\"\"e\",\"f\ng\",\n"); }

}  // namespace
}  // namespace kvreplay
