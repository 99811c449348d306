// Do the curves have the runs' own numbers, and does a sweep add what a replay would say?
#include "gui/model/curves.h"

#include <gtest/gtest.h>

#include <QPushButton>
#include <QTest>

#include <cmath>

#include "core/report/statistics.h"
#include "gui/figure/line_chart.h"
#include "gui/model/budget_sweep.h"
#include "gui/window/widgets/choice.h"
#include "tests/gui/panel_fixture.h"

namespace kvreplay::gui {
namespace {

RunInfo info_of(const std::string& policy, std::int64_t budget, const std::string& trace, double error) {
  RunInfo info;
  info.policy = parse_policy(policy).text();
  info.preset = parse_policy(policy).description->name;
  info.budget = budget;
  info.trace_sha256 = trace;
  info.summary["output_error"] = error;
  return info;
}

TEST(CurvesByBudget, OneAPolicyWithIntervalsOverTraces) {
  const auto curves =
      curves_by_budget({info_of("snapkv", 64, "t1", 0.5), info_of("snapkv", 32, "t1", 0.7), info_of("snapkv", 64, "t2", 0.3),
                        info_of("snapkv", 64, "t3", 0.1), info_of("snapkv:window=16", 64, "t1", 0.4),
                        info_of("oracle_attention", 64, "t1", 0.05), info_of("full", 64, "t1", 0)},
                       "output_error");
  ASSERT_EQ(curves.size(), 3U);
  EXPECT_EQ(curves[0].name, "snapkv");
  ASSERT_EQ(curves[0].points.size(), 2U);
  EXPECT_EQ(curves[0].points[0].x, 32);
  EXPECT_TRUE(std::isnan(curves[0].points[0].low));  // one trace
  EXPECT_NEAR(curves[0].points[1].y, 0.3, 1e-12);
  const std::vector<double> values = {0.5, 0.3, 0.1};
  EXPECT_EQ(curves[0].points[1].low, bootstrap_mean(values).low);
  EXPECT_LT(curves[0].points[1].low, 0.3);
  EXPECT_GT(curves[0].points[1].high, 0.3);
  EXPECT_EQ(curves[1].name, "snapkv:window=16");
  EXPECT_TRUE(curves[2].bound);
  EXPECT_FALSE(curves[0].bound);
}

struct Curves : TwoRuns, testing::Test {
  Curves() : TwoRuns("snapkv:window=16", "restkv:window=16") {}
  const figure::LineChart& chart() {
    shown = panel->figure();
    EXPECT_NE(shown, nullptr);
    return dynamic_cast<const figure::LineChart&>(*shown);
  }
  void choose(const std::string& axis, const std::string& metric) {
    store.set_view("curves", "against", axis);
    store.set_view("curves", "metric", metric);
    panel->refresh_now();
  }
  std::unique_ptr<figure::Figure> shown;
};

TEST_F(Curves, ByLayerAndByStepAreTheRunsValues) {
  open("curves");
  choose("layer", "evicted_mass");
  ASSERT_EQ(chart().series.size(), 2U);
  for (int layer = 0; layer < 3; ++layer) {
    double sum = 0;
    for (int head = 0; head < 4; ++head)
      for (int step = 1; step <= 12; ++step) sum += store.run_b()->value("evicted_mass", layer, head, step);
    EXPECT_NEAR(chart().series[1].y[static_cast<std::size_t>(layer)], sum / 48, 1e-9);
  }
  Selection selection = store.selection();
  selection.layer = 2;
  selection.heads = {3};
  store.set_selection(selection);
  choose("step", "evicted_mass");
  ASSERT_EQ(chart().series[0].y.size(), 12U);
  for (int step = 1; step <= 12; ++step)
    EXPECT_EQ(chart().series[0].y[static_cast<std::size_t>(step - 1)], store.run_a()->value("evicted_mass", 2, 3, step));
  EXPECT_NE(chart().subtitle.find("query head 3"), std::string::npos);
  choose("step", "output_error");  // has no heads
  EXPECT_EQ(chart().series[0].y[4], store.run_a()->value("output_error", 2, -1, 5));
}

TEST_F(Curves, ByLayerAndByStepAreOfOneTrace) {
  const int smaller = open_smaller("tova");
  open("curves");
  choose("layer", "evicted_mass");
  EXPECT_EQ(chart().series.size(), 2U);
  choose("step", "evicted_mass");
  EXPECT_EQ(chart().series.size(), 2U);
  choose("budget", "output_error");
  EXPECT_EQ(chart().series.size(), 3U);  // every trace counts
  store.select_run(Side::a, smaller);
  choose("layer", "evicted_mass");
  ASSERT_EQ(chart().series.size(), 1U);
  EXPECT_EQ(chart().series[0].y.size(), 2U);
}

TEST_F(Curves, ASweepAddsTheBudgetsAndTheBound) {
  open("curves");
  choose("budget", "output_error");
  EXPECT_EQ(chart().series.size(), 2U);
  auto* button = find<QPushButton>("curves_sweep");
  QTest::mouseClick(button, Qt::LeftButton);
  EXPECT_TRUE(button->text().startsWith("Stop")) << button->text().toStdString();
  ASSERT_TRUE(wait_until([&] { return button->text() == "Sweep budgets"; }));
  const figure::LineChart& after = chart();
  ASSERT_EQ(after.series.size(), 3U);
  EXPECT_TRUE(after.series[2].reference);
  // 200 tokens: 2.5 % and 5 % are less than the window of 16, the bound has none. 30 % is the runs' own.
  EXPECT_EQ(after.series[0].x, (std::vector<double>{20, 40, 60, 80, 160}));
  EXPECT_EQ(after.series[2].x, (std::vector<double>{5, 10, 20, 40, 80, 160}));
  RunSpec spec = *store.spec(Side::b);
  spec.budget = "20%";
  EXPECT_NEAR(after.series[1].y[1], evaluated(document, spec)->info.summary.at("output_error"), 1e-12);
  ASSERT_EQ(after.x_marks.size(), 1U);
  EXPECT_EQ(after.x_marks[0].label, "A, B");
}

TEST_F(Curves, ASweepStops) {
  open("curves");
  auto* button = find<QPushButton>("curves_sweep");
  QTest::mouseClick(button, Qt::LeftButton);
  QTest::mouseClick(button, Qt::LeftButton);
  EXPECT_EQ(button->text(), "Sweep budgets");
  const std::size_t before = chart().series.size();
  wait_until([] { return false; }, 0);
  EXPECT_EQ(chart().series.size(), before);
}

}  // namespace
}  // namespace kvreplay::gui
