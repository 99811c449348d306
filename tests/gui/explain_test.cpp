// Do the numbers that explain a token agree with the definitions, and with what the policy ranked by?
#include "gui/model/explain.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/policy/stages/stages.h"
#include "gui/model/layer_desk.h"
#include "gui/model/redistribution.h"
#include "tests/gui/panel_fixture.h"
#include "tests/unit/replay_reference.h"

namespace kvreplay::gui {
namespace {

constexpr int window = 8;

struct Explaining : testing::Test {
  Explaining() {
    shape.layers = 2;
    contents = reference::random_contents(shape);
    document = std::make_shared<const Document>(make_memory_trace(reference::random_contents(shape)));
  }
  std::shared_ptr<const gui::Run> run_of(const std::string& policy, const std::string& budget = "40%") {
    RunSpec spec;
    spec.policy = policy;
    spec.budget = budget;
    auto run = evaluated(document, spec);
    EXPECT_EQ(run->problem, "");
    return run;
  }
  reference::Layer layer() const { return {contents, 1}; }
  // Attention of window query w to every token.
  std::vector<double> attention(int head, int w) const {
    const int position = shape.prompt - window + w;
    return layer().attention(head, position, layer().visible(position));
  }
  const Term& term(const ScoreTerms& terms, const std::string& beginning) const {
    for (const Term& each : terms.terms)
      if (each.name.rfind(beginning, 0) == 0) return each;
    ADD_FAILURE() << beginning;
    return terms.terms.front();
  }

  reference::Shape shape;
  MemoryTraceContents contents;
  std::shared_ptr<const Document> document;
  LayerDesk desk;
};

TEST_F(Explaining, StandingByCounting) {
  const auto run = run_of("snapkv:window=8,pooling=none");
  int kept = 0, gone = 0;
  for (int token = 0; token < 52; ++token) {
    const Standing standing = standing_of(*run, 1, 1, token);
    const auto& scores = run->layer(1)->scores();
    std::vector<float> sorted;
    for (int other = 0; other < 52; ++other) sorted.push_back(scores(1, other));
    std::sort(sorted.rbegin(), sorted.rend());
    ASSERT_TRUE(standing.scored);
    EXPECT_EQ(standing.candidates, 52);
    EXPECT_EQ(standing.kept_candidates, 16);  // 24 of 60, less the window
    EXPECT_EQ(sorted[static_cast<std::size_t>(standing.rank - 1)], standing.score);
    EXPECT_EQ(standing.cut, sorted[15]);
    EXPECT_TRUE(standing.by_score);
    EXPECT_EQ(standing.fate, standing.rank <= 16 ? Fate::kept : Fate::evicted);
    EXPECT_EQ(standing.margin() >= 0, standing.fate == Fate::kept);
    (standing.fate == Fate::kept ? kept : gone) += 1;
  }
  EXPECT_EQ(kept, 16);
  EXPECT_EQ(gone, 36);
  EXPECT_EQ(standing_of(*run, 1, 1, 52).fate, Fate::in_window);
  EXPECT_EQ(standing_of(*run, 1, 1, 59).fate, Fate::in_window);
  EXPECT_FALSE(standing_of(*run, 1, 1, 59).scored);
  EXPECT_EQ(standing_of(*run, 1, 1, 60).fate, Fate::generated);
  const auto with_sinks = run_of("compose:window=8,sinks=4");
  EXPECT_EQ(standing_of(*with_sinks, 1, 0, 3).fate, Fate::in_sinks);
  EXPECT_NE(standing_of(*with_sinks, 1, 0, 4).fate, Fate::in_sinks);
}

TEST_F(Explaining, SnapKvIsAttentionThenPooling) {
  const auto run = run_of("snapkv:window=8,kernel=5");
  LayerWorkspace& workspace = desk.workspace(document, 1);
  for (const int token : {0, 7, 30, 51}) {
    const ScoreTerms terms = score_terms(workspace, *run, 1, 1, token);
    double sum = 0;
    for (int w = 0; w < window; ++w) {
      double mean = 0;
      for (const int head : {2, 3}) mean += attention(head, w)[static_cast<std::size_t>(token)] / 2;
      // Float32 logits of about 10: relative 1e-5.
      EXPECT_NEAR(terms.attention[static_cast<std::size_t>(w)], mean, 2e-5 * mean);
      sum += mean;
    }
    EXPECT_NEAR(term(terms, "attention a").value, sum, 2e-5 * sum);
    EXPECT_NEAR(terms.before_pooling, sum, 2e-5 * sum);
    EXPECT_EQ(static_cast<float>(term(terms, "after pooling").value), run->layer(1)->scores()(1, token));
    double highest = 0;
    for (std::size_t i = 0; i < terms.neighbours_before.size(); ++i)
      if (std::abs(terms.around + static_cast<std::int64_t>(i) - token) <= 2 &&
          terms.around + static_cast<std::int64_t>(i) < shape.prompt - window)
        highest = std::max(highest, terms.neighbours_before[i]);
    EXPECT_EQ(static_cast<float>(highest), run->layer(1)->scores()(1, token)) << token;
  }
}

// Without pooling the score is the removal error itself, which the terms multiply to.
TEST_F(Explaining, RestKvIsOddsTimesDisplacement) {
  for (const std::string options : {"window=8,pooling=none", "window=8,pooling=none,metric=after",
                                    "window=8,pooling=none,project=false,granularity=query_head"}) {
    const auto run = run_of("restkv:" + options);
    LayerWorkspace& workspace = desk.workspace(document, 1);
    const bool by_query_head = run->rows == 4, after = options.find("after") != std::string::npos;
    const int row = 1;
    const std::vector<double> weights = temporal_weights("ema", 0.3, window);
    for (const int token : {0, 9, 51}) {
      const ScoreTerms terms = score_terms(workspace, *run, 1, row, token);
      EXPECT_EQ(static_cast<float>(terms.before_pooling), run->layer(1)->scores()(row, token)) << options;
      const double odds = term(terms, "odds").value, displacement = term(terms, "value displacement").value;
      EXPECT_NEAR(odds * displacement, terms.before_pooling, 1e-12 * terms.before_pooling);
      double expected = 0;
      const std::vector<int> heads = by_query_head ? std::vector<int>{1} : std::vector<int>{2, 3};
      for (const int head : heads) {
        double mean = 0;
        for (int w = 0; w < window; ++w) {
          const double a = attention(head, w)[static_cast<std::size_t>(token)];
          expected += after ? 0 : weights[static_cast<std::size_t>(w)] * a / (1 - a) / static_cast<double>(heads.size());
          mean += weights[static_cast<std::size_t>(w)] * a;
        }
        if (after) expected += mean / (1 - mean) / static_cast<double>(heads.size());
      }
      EXPECT_NEAR(odds, expected, 2e-5 * expected) << options;
    }
  }
}

TEST_F(Explaining, OtherPoliciesSayTheirStages) {
  const auto run = run_of("knorm");
  const ScoreTerms terms = score_terms(desk.workspace(document, 1), *run, 1, 0, 5);
  EXPECT_FALSE(terms.stages.empty());
  ASSERT_EQ(terms.terms.size(), 1U);
  EXPECT_EQ(static_cast<float>(terms.terms[0].value), run->layer(1)->scores()(0, 5));
}

// From an explicit softmax over all other tokens.
TEST_F(Explaining, RemovalIsTheLeaveOneOutError) {
  const Removals removals = removals_of(desk.workspace(document, 1), *document, 1, {0, 3}, 17, 2);
  EXPECT_TRUE(removals.projected);
  ASSERT_EQ(removals.heads.size(), 2U);
  for (const Removal& removal : removals.heads) {
    double mean = 0;
    for (int step = 1; step <= shape.steps; ++step) {
      const int position = shape.prompt + step - 1;
      std::set<int> all = layer().visible(position), others = all;
      others.erase(17);
      const auto a = layer().attention(removal.head, position, all);
      const auto o = layer().output(removal.head, a),
                 without = layer().output(removal.head, layer().attention(removal.head, position, others));
      const double error = reference::norm(layer().projected(removal.head, reference::difference(without, o)));
      const double relative = error / reference::norm(layer().projected(removal.head, o));
      mean += relative / shape.steps;
      if (step != 2) continue;
      // Both in float64, from the same float32 tensors.
      EXPECT_NEAR(removal.attention, a[17], 1e-11 * a[17]);
      EXPECT_NEAR(removal.error, error, 1e-9 * error);
      EXPECT_NEAR(removal.relative, relative, 1e-9 * relative);
      EXPECT_NEAR(removal.odds * removal.displacement, removal.error, 1e-15);
    }
    EXPECT_NEAR(removal.mean_relative, mean, 1e-9 * mean);
  }
  EXPECT_FALSE(removals_of(desk.workspace(document, 1), *document, 1, {0}, 65, 2).heads[0].recorded);  // comes later
}

// A weight near 1: 1 - a and o - v must not be differences of nearly equal numbers.
TEST_F(Explaining, RemovalOfADominantToken) {
  shape.sharpness = 12;
  contents = reference::random_contents(shape);
  document = std::make_shared<const Document>(make_memory_trace(reference::random_contents(shape)));
  double highest = 0;
  for (int head = 0; head < 4; ++head) {
    const int position = shape.prompt;
    const auto a = layer().attention(head, position, layer().visible(position));
    const int token = static_cast<int>(std::max_element(a.begin(), a.end()) - a.begin());
    std::set<int> others = layer().visible(position);
    others.erase(token);
    const auto difference =
        reference::difference(layer().output(head, layer().attention(head, position, others)), layer().output(head, a));
    const double error = reference::norm(layer().projected(head, difference));
    const Removal removal = removals_of(desk.workspace(document, 1), *document, 1, {head}, token, 1).heads[0];
    EXPECT_NEAR(removal.error, error, 1e-6 * error) << a[static_cast<std::size_t>(token)];
    highest = std::max(highest, a[static_cast<std::size_t>(token)]);
  }
  EXPECT_GT(highest, 0.999);
}

TEST_F(Explaining, RedistributionAgreesWithTheMetrics) {
  const auto run = run_of("snapkv:window=8");
  Selection selection;
  selection.layer = 1;
  selection.step = 3;
  const RunRedistribution moved = run_redistribution(*document, *run, selection, 5);
  ASSERT_EQ(moved.heads.size(), 4U);
  for (const ErrorFactors& head : moved.heads) {
    // The metrics are float32 of sums of float32 products.
    const auto metric = [&](const char* name) { return run->value(name, 1, head.head, 3); };
    EXPECT_NEAR(head.evicted_mass, metric("evicted_mass"), 2e-5 * head.evicted_mass);
    EXPECT_NEAR(head.value_displacement, metric("value_displacement"), 2e-5 * head.value_displacement);
    EXPECT_NEAR(head.relative, metric("head_output_error"), 2e-5 * head.relative);
    EXPECT_NEAR(head.difference, head.relative * head.output_norm, 1e-9);
  }
  double before = 0, after = 0;
  for (std::size_t region = 0; region < num_regions; ++region) before += moved.before[region], after += moved.after[region];
  EXPECT_NEAR(before, 1, 1e-12);
  EXPECT_NEAR(after, 1, 1e-12);
}

TEST_F(Explaining, ReceiversAreThoseThatGainMost) {
  const auto run = run_of("snapkv:window=8");
  Selection selection;
  selection.layer = 1;
  selection.heads = {2};
  const RunRedistribution moved = run_redistribution(*document, *run, selection, 5);
  const int position = shape.prompt;  // at step 0 the first query that misses something
  std::set<int> kept;
  for (int token = 0; token <= position; ++token)
    if (token == position || run->kept(1, 2, token, 0)) kept.insert(token);
  const auto a = layer().attention(2, position, layer().visible(position)), b = layer().attention(2, position, kept);
  std::vector<std::pair<double, int>> gains, losses;
  for (int token = 0; token <= position; ++token) {
    const auto i = static_cast<std::size_t>(token);
    (kept.count(token) != 0 ? gains : losses).push_back({std::abs(b[i] - a[i]), token});
  }
  std::sort(gains.rbegin(), gains.rend());
  std::sort(losses.rbegin(), losses.rend());
  ASSERT_EQ(moved.receivers.size(), 5U);
  ASSERT_EQ(moved.lost.size(), 5U);
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(moved.receivers[i].token, gains[i].second);
    EXPECT_NEAR(moved.receivers[i].after - moved.receivers[i].before, gains[i].first, 1e-10);
    EXPECT_EQ(moved.lost[i].token, losses[i].second);
    EXPECT_EQ(moved.lost[i].after, 0);
  }
  EXPECT_EQ(moved.evicted, 36);
}

TEST_F(Explaining, RunsThatChangeRowsAreRefused) {
  const auto run = run_of("snapkv:window=8,merge=pivot");
  EXPECT_NE(reference::refusal_of([&] { run_redistribution(*document, *run, {}, 5); }).find("merge"), std::string::npos);
}

}  // namespace
}  // namespace kvreplay::gui
