// Are a token's numbers what the definitions say?
#include "gui/model/token_values.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>

#include "gui/model/attention.h"
#include "gui/model/redistribution.h"
#include "tests/gui/panel_fixture.h"
#include "tests/unit/replay_reference.h"

namespace kvreplay::gui {
namespace {

std::set<int> kept_before(const Run& run, int layer, int head, int position) {
  std::set<int> kept;
  for (int token = 0; token <= position; ++token)
    if (run.kept(layer, head, token, position - static_cast<int>(run.prompt)) || token == position) kept.insert(token);
  return kept;
}

struct Numbers : testing::Test {
  Numbers() {
    shape.layers = 2;
    contents = reference::random_contents(shape);
    document = std::make_shared<const Document>(make_memory_trace(reference::random_contents(shape)));
    selection.layer = 1;
    selection.step = 3;
  }
  std::shared_ptr<const gui::Run> run_of(const std::string& policy) {
    RunSpec spec;
    spec.policy = policy;
    spec.budget = "40%";
    return evaluated(document, spec);
  }
  reference::Layer layer() const { return {contents, 1}; }

  reference::Shape shape;
  MemoryTraceContents contents;
  std::shared_ptr<const Document> document;
  Selection selection;
  LayerDesk desk;
};

TEST_F(Numbers, AttentionBeforeAndAfter) {
  selection.heads = {1, 2};
  const auto run = run_of("snapkv:window=8");
  const int position = static_cast<int>(query_position(*document, selection.step));
  EXPECT_EQ(position, shape.prompt + 2);
  const auto before = token_values(Quantity::attention, document, nullptr, selection, desk);
  const auto after = token_values(Quantity::attention_after, document, run.get(), selection, desk);
  std::vector<double> expected_before(66), expected_after(66);
  for (const int head : {1, 2}) {
    const auto a = layer().attention(head, position, layer().visible(position));
    const auto b = layer().attention(head, position, kept_before(*run, 1, head, position));
    for (std::size_t i = 0; i < 66; ++i) expected_before[i] += a[i] / 2, expected_after[i] += b[i] / 2;
  }
  for (int token = 0; token < 66; ++token) {
    const auto i = static_cast<std::size_t>(token);
    if (token > position) {
      EXPECT_TRUE(std::isnan(before[i]) && std::isnan(after[i])) << token;
      continue;
    }
    // Logits are float32 products of about 10: their error is below 1e-5.
    EXPECT_NEAR(before[i], expected_before[i], 2e-5 * expected_before[i] + 1e-9) << token;
    EXPECT_NEAR(after[i], expected_after[i], 2e-5 * expected_after[i] + 1e-9) << token;
  }
}

TEST_F(Numbers, ScorePlacesAndKeptShares) {
  const auto run = run_of("snapkv:window=8");
  selection.heads = {0};
  const auto places = token_values(Quantity::score, document, run.get(), selection, desk);
  const auto& scores = run->layer(1)->scores();
  for (int token = 0; token < 66; ++token) {
    if (token >= 52) {
      EXPECT_TRUE(std::isnan(places[static_cast<std::size_t>(token)])) << token;
      continue;
    }
    int lower = 0;
    for (int other = 0; other < 52; ++other) lower += scores(0, other) < scores(0, token) ? 1 : 0;
    EXPECT_FLOAT_EQ(places[static_cast<std::size_t>(token)], static_cast<float>(lower) / 51) << token;
  }
  selection.heads.clear();
  const auto kept = token_values(Quantity::kept, document, run.get(), selection, desk);
  const auto step = token_values(Quantity::evicted_at, document, run.get(), selection, desk);
  for (int token = 0; token < 66; ++token) {
    double share = 0;
    for (int head = 0; head < 4; ++head) share += run->kept(1, head, token, 3) ? 0.25 : 0;
    EXPECT_FLOAT_EQ(kept[static_cast<std::size_t>(token)], static_cast<float>(share));
    EXPECT_FLOAT_EQ(step[static_cast<std::size_t>(token)], static_cast<float>(share * 7));  // 6 steps: never counts as 7
  }
}

// Of every evicted token: the error with and without it, from the definitions.
TEST_F(Numbers, WorthIsWhatRestoringTakesOff) {
  const auto run = run_of("snapkv:window=8");
  LayerWorkspace& workspace = desk.workspace(document, 1);
  const Worths worths = worths_of(workspace, run->info, *run->layer(1));
  int counted = 0;
  for (int head = 0; head < 4; ++head) {
    for (int token = 0; token < shape.prompt; ++token) {
      if (run->kept(1, head, token, 0)) {
        EXPECT_TRUE(std::isnan(worths.gain(head, token)));
        continue;
      }
      double error = 0, restored = 0;
      for (int step = 0; step < shape.steps; ++step) {
        const int position = shape.prompt + step;
        const auto error_of = [&](const std::set<int>& set) {
          const auto o = layer().output(head, layer().attention(head, position, layer().visible(position)));
          const auto kept = layer().output(head, layer().attention(head, position, set));
          return std::pow(reference::norm(reference::difference(kept, o)) / reference::norm(o), 2) / shape.steps;
        };
        std::set<int> set = kept_before(*run, 1, head, position);
        error += error_of(set);
        set.insert(token);
        restored += error_of(set);
      }
      // Squared errors of float32 weights and products.
      EXPECT_NEAR(worths.gain(head, token), error - restored, 1e-4 * error) << head << " " << token;
      EXPECT_NEAR(worths.error[static_cast<std::size_t>(head)], error, 1e-4 * error);
      ++counted;
    }
  }
  EXPECT_GT(counted, 60);
}

// As a results file has it: what was merged into which row is not in it, but for the policy's own words.
TEST_F(Numbers, OfRunsThatChangeRowsAreRefused) {
  for (const char* policy : {"snapkv:window=4,merge=pivot", "snapkv:window=4,positions=compacted"}) {
    auto run = std::make_shared<gui::Run>(*run_of(policy));
    ASSERT_EQ(run->problem, "") << policy;
    for (auto& each : run->layers) {
      auto evictions = std::make_shared<LayerEvictions>();
      evictions->evicted_at = each->evicted_at();
      evictions->scores = each->scores();
      auto layer = std::make_shared<RunLayer>(*each);
      layer->evictions = std::move(evictions);
      each = std::move(layer);
    }
    run->info.position_mode = "original";  // as a run under way has it
    for (const Quantity quantity : {Quantity::attention_after, Quantity::worth})
      EXPECT_THROW(token_values(quantity, document, run.get(), selection, desk), Error) << policy;
    EXPECT_NO_THROW(token_values(Quantity::attention, document, run.get(), selection, desk));
    EXPECT_THROW(run_redistribution(*document, *run, selection, 5), Error) << policy;
    AttentionRequest request;
    request.document = document;
    request.run = run;
    request.end_query = request.end_key = 1;
    std::atomic<std::int64_t> done{0};
    request.form = AttentionForm::evicted;
    EXPECT_THROW(AttentionPainter().paint(request, done), Error) << policy;
    request.form = AttentionForm::full;
    EXPECT_NO_THROW(AttentionPainter().paint(request, done));
  }
}

}  // namespace
}  // namespace kvreplay::gui
