// Does the head grid find the head that breaks, and does a click select it?
#include <gtest/gtest.h>

#include <QLabel>
#include <QPushButton>
#include <QTest>
#include <cmath>

#include "gui/model/head_values.h"
#include "gui/window/widgets/choice.h"
#include "gui/window/widgets/head_grid_view.h"
#include "gui/window/widgets/readout.h"
#include "tests/gui/panel_fixture.h"

namespace kvreplay::gui {
namespace {

struct Grid : TwoRuns, testing::Test {
  Grid() : TwoRuns("snapkv:window=8", "restkv:window=8", example_document()) {
    open("head_grid");
    view = find<HeadGridView>("head_grid_view");
    settle();
  }
  // Until the numbers that are computed in the background are there.
  void settle() {
    panel->refresh_now();
    ASSERT_TRUE(wait_until([&] { return view->grid().rows > 0 && !panel->property("busy").toBool(); }));
  }
  void choose(const char* name, const std::string& value) {
    auto* choice = find<Choice>(name);
    choice->show_value(value);
    emit choice->chosen(value);
    settle();
  }
  float shown(int layer, int head) const { return view->grid().values[static_cast<std::size_t>(layer * 4 + head)]; }
  HeadGridView* view = nullptr;
};

TEST_F(Grid, ShowsAMetricOfEveryHead) {
  const auto run = store.run_a();
  for (int layer = 0; layer < 3; ++layer)
    for (int head = 0; head < 4; ++head) {
      double total = 0;
      for (int step = 1; step <= run->steps; ++step) total += run->value("head_output_error", layer, head, step);
      EXPECT_NEAR(shown(layer, head), total / run->steps, 1e-6);
    }
  choose("head_grid_when", "step");
  store.select_step(5);
  settle();
  EXPECT_EQ(shown(1, 2), static_cast<float>(run->value("head_output_error", 1, 2, 5)));
  choose("head_grid_quantity", "kept_count");
  EXPECT_EQ(shown(1, 2), static_cast<float>(run->kept_count(1, 1, 5)));
}

TEST_F(Grid, MarksAndSelectsTheWorst) {
  const auto run = store.run_a();
  HeadPlace worst;
  for (int layer = 0; layer < 3; ++layer)
    for (int head = 0; head < 4; ++head)
      if (shown(layer, head) > shown(worst.layer, worst.head)) worst = {layer, head};
  QTest::mouseClick(find<QPushButton>("head_grid_worst"), Qt::LeftButton);
  EXPECT_EQ(store.selection().layer, worst.layer);
  EXPECT_EQ(store.selection().heads, std::vector<int>{worst.head});
  EXPECT_TRUE(find<Readout>("head_grid_readout")
                  ->text()
                  .contains(QString("worst is layer %1, head %2").arg(worst.layer).arg(worst.head)));
}

TEST_F(Grid, ClicksSelectHeads) {
  const auto click = [&](int layer, int head, Qt::KeyboardModifiers keys = {}) {
    QTest::mouseClick(view, Qt::LeftButton, keys, view->cell(layer, head).center().toPoint());
  };
  click(2, 3);
  EXPECT_EQ(store.selection().layer, 2);
  EXPECT_EQ(store.selection().heads, std::vector<int>{3});
  click(2, 1, Qt::ControlModifier);
  EXPECT_EQ(store.selection().heads, (std::vector<int>{1, 3}));
  QTest::mouseClick(view, Qt::LeftButton, {}, QPoint(12, static_cast<int>(view->cell(1, 0).center().y())));
  EXPECT_EQ(store.selection().layer, 1);
  EXPECT_TRUE(store.selection().heads.empty());
}

TEST_F(Grid, KeysMoveAndSelect) {
  store.select_layer(1);
  store.select_heads({2});
  panel->refresh_now();
  QTest::keyClick(view, Qt::Key_Down);
  QTest::keyClick(view, Qt::Key_Left);
  EXPECT_EQ(store.focus().layer, 2);
  EXPECT_EQ(store.focus().head, 1);
  QTest::keyClick(view, Qt::Key_Return);
  EXPECT_EQ(store.selection().layer, 2);
  EXPECT_EQ(store.selection().heads, std::vector<int>{1});
}

TEST_F(Grid, ADifferenceIsBMinusA) {
  const float a = shown(1, 1);
  choose("head_grid_runs", "b");
  const float b = shown(1, 1);
  choose("head_grid_runs", "difference");
  EXPECT_EQ(shown(1, 1), b - a);
  EXPECT_EQ(view->grid().scale.low, -view->grid().scale.high);
}

TEST_F(Grid, SmallMapsAreSharesKept) {
  const auto run = store.run_a();
  choose("head_grid_quantity", "maps");
  ASSERT_TRUE(wait_until([&] { return view->grid().map_size > 1; }));
  const int size = view->grid().map_size;
  double total = 0;
  for (int i = 0; i < size; ++i) total += view->grid().values[static_cast<std::size_t>((2 * 4 + 1) * size + i)];
  // Stretches of 4 or 5 of the prompt's 200 tokens: their mean is the share of all of them, nearly.
  EXPECT_NEAR(total / size, static_cast<double>(run->kept_count(2, 0, 0)) / 200, 0.02);
  EXPECT_NE(panel->figure(), nullptr);
}

TEST_F(Grid, NothingIsComputedAnewForAnotherSelection) {
  const auto asks_for = [this](const std::function<void()>& change) {
    change();
    panel->refresh_now();
    const bool busy = panel->property("busy").toBool();
    settle();
    return busy;
  };
  EXPECT_FALSE(asks_for([this] { store.select_layer(2); }));
  EXPECT_FALSE(asks_for([this] { store.select_heads({1}); }));
  EXPECT_FALSE(asks_for([this] { store.select_step(4); }));  // the mean over steps is shown
  EXPECT_TRUE(asks_for([this] { store.set_view("head_grid", "quantity", "kept_count"); }));
  EXPECT_TRUE(asks_for([this] { store.select_step(5); }));
  // New values of the run change no count.
  const auto measured = [this] {
    auto next = std::make_shared<gui::Run>(*store.run_a());
    for (auto& layer : next->layers) layer = std::make_shared<RunLayer>(*layer);
    store.put_run(next->spec.id, next);
  };
  EXPECT_FALSE(asks_for(measured));
  EXPECT_TRUE(asks_for([this] { store.set_view("head_grid", "quantity", "head_output_error"); }));
  EXPECT_TRUE(asks_for(measured));
}

TEST_F(Grid, EveryHeadHasTheRunsOwnValue) {
  const auto run = store.run_a();
  for (const std::string& name : head_quantities(*run))
    for (const int step : {0, 3}) {
      const Tensor<float, 2> values = head_values(*run, name, step);
      for (int layer = 0; layer < 3; ++layer)
        for (int head = 0; head < 4; ++head) {
          const double expected = name == kept_count_name
                                      ? static_cast<double>(run->kept_count(layer, run->row_of(head), step))
                                      : run->value(name, layer, head, step > 0 ? step : -1);
          if (std::isnan(expected))
            EXPECT_TRUE(std::isnan(values(layer, head))) << name;
          else
            EXPECT_EQ(values(layer, head), static_cast<float>(expected)) << name << " " << step;
        }
    }
}

TEST(WorstHead, IsOnTheBadSide) {
  Tensor<float, 2> values({2, 2});
  values(0, 0) = 0.1F, values(0, 1) = 0.7F, values(1, 0) = std::nanf(""), values(1, 1) = -0.9F;
  MetricInfo info;
  const auto place = [&](bool difference) { return worst_head(values, info, difference); };
  EXPECT_EQ(place(false)->head, 1);
  info.direction = Direction::higher_is_better;
  EXPECT_EQ(place(false)->layer, 1);
  info.direction = Direction::neither;
  EXPECT_FALSE(place(false));
  info.direction = Direction::lower_is_better;
  for (float& value : values.flat()) value = -1;
  EXPECT_FALSE(place(true));  // better everywhere
}

}  // namespace
}  // namespace kvreplay::gui
