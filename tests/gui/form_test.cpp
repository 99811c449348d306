// Do forms make the strings that they show, and does a budget come back as the tokens that a slider asked for?
#include <gtest/gtest.h>

#include <QLabel>
#include <QSlider>
#include <QToolButton>
#include <algorithm>

#include "gui/model/budget_form.h"
#include "gui/model/policy_form.h"
#include "gui/model/time_line.h"
#include "tests/gui/panel_fixture.h"

namespace kvreplay::gui {
namespace {

bool has(const PolicyForm& form, const std::string& key) {
  const auto fields = form.fields();
  return std::any_of(fields.begin(), fields.end(), [&](const auto& field) { return field.parameter->key == key; });
}

TEST(PolicyForms, SayOnlyWhatDiffersFromTheDefaults) {
  PolicyForm form = PolicyForm::of("snapkv");
  EXPECT_EQ(form.text(), "snapkv");
  form.set("window", "16");
  EXPECT_EQ(form.text(), "snapkv:window=16");
  form.set("window", "32");
  EXPECT_EQ(form.text(), "snapkv");
}

TEST(PolicyForms, LeaveOutWhatMeansNothing) {
  PolicyForm form = PolicyForm::of("compose");
  form.set("pooling", "avg");
  EXPECT_TRUE(has(form, "kernel"));
  form.set("kernel", "9");
  EXPECT_NE(form.text().find("kernel=9"), std::string::npos) << form.text();
  form.set("pooling", "none");
  EXPECT_FALSE(has(form, "kernel"));
  EXPECT_EQ(form.text().find("kernel"), std::string::npos) << form.text();
  EXPECT_EQ(form.problem(), "");
}

TEST(PolicyForms, KeepValuesThatTheNextPolicyKnows) {
  PolicyForm form = PolicyForm::of("snapkv:window=16,kernel=9");
  form.set_policy("adakv");
  EXPECT_EQ(form.problem(), "");
  EXPECT_NE(form.text().find("window=16"), std::string::npos) << form.text();
}

TEST(PolicyForms, TakeWrapperKeysAsTheyAreTyped) {
  PolicyForm form = PolicyForm::of("snapkv:window=16,block=16");
  EXPECT_EQ(form.extra(), "block=16");
  EXPECT_EQ(form.text(), "snapkv:window=16,block=16");
  form.set_extra("block=x");
  EXPECT_NE(form.problem().find("block"), std::string::npos);
}

TEST(PolicyForms, ReadEveryPolicyAndVariant) {
  for (const PolicyDescription* policy : policy_registry())
    for (const PolicyVariant& variant : policy->variants) {
      PolicyForm form = PolicyForm::of(policy_registry().front()->name);
      form.set_policy(policy->name);
      form.set_variant(variant.name);
      const bool needs_more =
          std::any_of(policy->parameters.begin(), policy->parameters.end(), [](const auto& p) { return p.required; });
      if (needs_more) continue;
      EXPECT_EQ(form.problem(), "") << policy->name << "@" << variant.name;
    }
}

TEST(BudgetForms, ComeBackAsTheSameTokens) {
  const auto document = example_document();
  for (const Granularity granularity : {Granularity::query_head, Granularity::kv_head, Granularity::layer}) {
    const BudgetForm form(document, granularity, 33);
    for (std::int64_t tokens = 33; tokens <= document->prompt_length(); ++tokens) {
      EXPECT_EQ(form.tokens_of(form.text(Budget::Kind::tokens, tokens)), tokens);
      EXPECT_EQ(form.tokens_of(form.text(Budget::Kind::ratio, tokens)), tokens);
      // Written in whole KiB: no fewer tokens, and at most as many more as fit into one.
      const std::int64_t bytes = form.tokens_of(form.text(Budget::Kind::bytes, tokens));
      EXPECT_GE(bytes, tokens);
      EXPECT_LE(bytes, tokens + 6);
    }
  }
}

TEST(BudgetForms, CoverTheSliderFromEndToEnd) {
  const auto document = example_document();
  const BudgetForm form(document, Granularity::kv_head, 33);
  EXPECT_EQ(form.tokens_at(0), 33);
  EXPECT_EQ(form.tokens_at(1), document->prompt_length());
  for (std::int64_t tokens = 33; tokens <= document->prompt_length(); ++tokens)
    EXPECT_EQ(form.tokens_at(form.place_of(tokens)), tokens);
}

TEST(BudgetForms, KeepTheirTrace) {
  auto document = example_document();
  const std::weak_ptr<const Document> closed = document;
  const auto form = std::make_unique<BudgetForm>(document, Granularity::kv_head, 33);
  const std::string before = form->text(Budget::Kind::bytes, 50);
  document.reset();
  ASSERT_FALSE(closed.expired());
  EXPECT_EQ(form->text(Budget::Kind::bytes, 50), before);
}

struct ControlsOnTwo : TwoRuns, testing::Test {};

TEST_F(ControlsOnTwo, AScaleIsOfTheRunThatIsChanged) {
  store.select_run(Side::b, open_smaller());
  open("controls");
  auto* slider = find<QSlider>("controls_slider");
  const auto most = [&](const char* side) {
    find<QToolButton>(side)->click();
    slider->setValue(slider->maximum());
    panel->refresh_now();
    return find<QLabel>("controls_meaning")->text();
  };
  // Its whole prompt, not that of run A.
  EXPECT_TRUE(most("controls_b").startsWith("120 tokens")) << most("controls_b").toStdString();
  EXPECT_TRUE(most("controls_a").startsWith("200 tokens")) << most("controls_a").toStdString();
}

TEST_F(ControlsOnTwo, ASliderMovesAfterItsTraceWasClosed) {
  open("controls");
  auto* slider = find<QSlider>("controls_slider");
  const std::weak_ptr<const Document> closed = document;
  document.reset();
  store.remove_file(store.state().files.front().id);
  slider->setValue(slider->maximum());  // before the panel heard of it
  panel->refresh_now();
  slider->setValue(0);
  EXPECT_TRUE(store.state().runs.empty());
  EXPECT_TRUE(closed.expired());  // nothing holds it once everybody heard
}

TEST(TimeLines, CountEvictionsAndAverageHeads) {
  kvreplay::gui::Run run;
  run.query_heads = 4;
  run.rows = 2;
  run.tokens = 6;
  run.prompt = 4;
  run.steps = 2;
  auto layer = std::make_shared<RunLayer>();
  auto evictions = std::make_shared<LayerEvictions>();
  evictions->evicted_at = Tensor<std::int32_t, 2>({2, 6}, -1);
  evictions->evicted_at(0, 0) = 0;
  evictions->evicted_at(0, 1) = 0;
  evictions->evicted_at(1, 0) = 2;
  layer->evictions = evictions;
  layer->metrics["output_error"] = {{2}, {"step"}, {}, {0.5F, 0.25F}};
  layer->metrics["head_output_error"] = {{4, 2}, {"query_head", "step"}, {}, {1, 2, 3, 4, 5, 6, 7, 8}};
  run.layers = {layer, nullptr};
  const TimeLine all = time_line(run, 0, {});
  EXPECT_EQ(all.evicted, (std::vector<std::int64_t>{2, 0, 1}));
  EXPECT_EQ(all.error_metric, "output_error");
  EXPECT_EQ(all.error[2], 0.25);
  const TimeLine some = time_line(run, 0, {2, 3});
  EXPECT_EQ(some.evicted, (std::vector<std::int64_t>{0, 0, 1}));
  EXPECT_EQ(some.error[1], 6);
  EXPECT_TRUE(time_line(run, 1, {}).evicted.empty());
}

}  // namespace
}  // namespace kvreplay::gui
