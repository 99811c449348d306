// Two traces of different sizes are open: does every panel show runs of one, and say so of the other?
#include <gtest/gtest.h>

#include <QLabel>
#include <QTest>
#include <cmath>

#include "tests/gui/panel_fixture.h"

namespace kvreplay::gui {
namespace {

// Every panel, at the far end of the large trace, with tokens and heads that the small one lacks.
struct TwoSizes : TwoRuns, testing::TestWithParam<const PanelDescription*> {
  TwoSizes() : TwoRuns("snapkv:window=8", "restkv:window=8") {
    smaller = open_smaller();
    Selection selection = store.selection();
    selection.layer = 2;
    selection.step = 12;
    selection.heads = {2, 3};
    selection.tokens = {{40, 42}, {150, 170}};
    store.set_selection(selection);
    open(GetParam()->name);
  }
  void settle() {
    panel->refresh_now();
    ASSERT_TRUE(wait_until([&] { return !panel->property("busy").toBool(); }));
    wait_until([] { return false; }, 0);
    panel->refresh_now();
    panel->grab();
    if (const auto figure = panel->figure()) figure->data();
    panel->table();
  }
  QString message() { return panel->findChild<QLabel*>("message")->text(); }
  // Every choice of a run and of a quantity that a panel has, whether it knows it or not.
  void settle_with(const std::string& runs, const std::string& quantity) {
    for (const char* name : {"runs", "run", "side"}) store.set_view(GetParam()->name, name, runs);
    for (const char* name : {"quantity", "against", "form"}) store.set_view(GetParam()->name, name, quantity);
    settle();
  }
  int smaller = -1;
};

TEST_P(TwoSizes, RunBOfAnotherTraceIsNotRead) {
  store.select_run(Side::b, smaller);
  for (const char* runs : {"a", "b", "both", "difference"})
    for (const char* quantity : {"kept", "lifetime", "score", "evicted_at", "attention_after", "layer", "step", "maps"})
      settle_with(runs, quantity);
  const std::string name = GetParam()->name;
  if (name == "eviction_map" || name == "head_grid") {
    settle_with("b", "kept");
    EXPECT_TRUE(message().contains("Run B is of another trace")) << message().toStdString();
  }
}

TEST_P(TwoSizes, GoesOverToTheOtherTraceAndBack) {
  settle();
  store.select_run(Side::a, smaller);
  settle();
  store.select_run(Side::a, store.selection().run_b);
  settle();
  store.back();
  settle();
}

INSTANTIATE_TEST_SUITE_P(Panels, TwoSizes, testing::ValuesIn(panel_registry()),
                         [](const auto& test) { return test.param->name; });

}  // namespace
}  // namespace kvreplay::gui
