// Does the eviction map show who keeps what, and does pointing, clicking and choosing work?
#include <gtest/gtest.h>

#include <QAction>
#include <QLabel>
#include <QTest>
#include <cmath>

#include "gui/figure/heat_map.h"
#include "gui/model/eviction_matrix.h"
#include "gui/window/widgets/choice.h"
#include "gui/window/widgets/matrix_view.h"
#include "gui/window/widgets/readout.h"
#include "tests/gui/panel_fixture.h"

namespace kvreplay::gui {
namespace {

// A run of two layers by hand: 6 tokens of which 4 are the prompt's, two query heads.
std::shared_ptr<Run> made_run(int rows, const std::vector<std::vector<std::int32_t>>& evicted_at) {
  auto run = std::make_shared<Run>();
  run->query_heads = 2;
  run->rows = rows;
  run->tokens = 6;
  run->prompt = 4;
  run->steps = 2;
  for (const auto& of_layer : evicted_at) {
    auto evictions = std::make_shared<LayerEvictions>();
    evictions->evicted_at = Tensor<std::int32_t, 2>({rows, 6});
    std::copy(of_layer.begin(), of_layer.end(), evictions->evicted_at.data());
    auto layer = std::make_shared<RunLayer>();
    layer->evictions = std::move(evictions);
    run->layers.push_back(std::move(layer));
  }
  return run;
}

std::vector<float> row_of(const Matrix& matrix, std::int64_t row) {
  std::vector<float> values(static_cast<std::size_t>(matrix.columns()));
  matrix.read(row, 0, matrix.columns(), values.data());
  return values;
}

constexpr float none = -99;  // in place of NaN, which equals nothing
std::vector<float> comparable(std::vector<float> values) {
  for (float& value : values) value = std::isnan(value) ? none : value;
  return values;
}

struct MadeRuns : testing::Test {
  std::shared_ptr<gui::Run> a =
      made_run(2, {{0, -1, 2, -1, -1, -1, /**/ 0, 0, 1, -1, -1, -1}, {-1, -1, -1, -1, -1, -1, /**/ 0, 0, 0, 0, -1, -1}});
  std::shared_ptr<gui::Run> b = made_run(1, {{-1, 0, -1, -1, -1, -1}, {-1, -1, -1, -1, -1, -1}});
};

TEST_F(MadeRuns, KeptIsAsOfTheStep) {
  using Row = std::vector<float>;
  const EvictionMatrix at_end({a, b, MapQuantity::kept, MapRows::heads, MapRuns::a, 0, 0});
  EXPECT_EQ(comparable(row_of(at_end, 0)), (Row{0, 1, 1, 1, none, none}));
  EXPECT_EQ(comparable(row_of(at_end, 1)), (Row{0, 0, 1, 1, none, none}));
  const EvictionMatrix later({a, b, MapQuantity::kept, MapRows::heads, MapRuns::a, 0, 2});
  EXPECT_EQ(comparable(row_of(later, 0)), (Row{0, 1, 0, 1, 1, 1}));
  EXPECT_EQ(comparable(row_of(later, 1)), (Row{0, 0, 0, 1, 1, 1}));
}

TEST_F(MadeRuns, LifetimesEndOnePastTheLastStep) {
  const EvictionMatrix matrix({a, b, MapQuantity::lifetime, MapRows::all, MapRuns::a, 0, 0});
  ASSERT_EQ(matrix.rows(), 4);
  EXPECT_EQ(row_of(matrix, 1), (std::vector<float>{0, 0, 1, 3, 3, 3}));
  EXPECT_EQ(row_of(matrix, 2), (std::vector<float>{3, 3, 3, 3, 3, 3}));
  EXPECT_EQ(matrix.layer_of(3), 1);
  EXPECT_EQ(matrix.heads_of(3), std::vector<int>{1});
  EXPECT_EQ(matrix.row_of(1, 1), 3);
}

TEST_F(MadeRuns, DifferencesAreOfTheFinerHeads) {
  using Row = std::vector<float>;
  const EvictionMatrix matrix({a, b, MapQuantity::kept, MapRows::heads, MapRuns::difference, 0, 1});
  ASSERT_EQ(matrix.rows(), 2);
  EXPECT_EQ(comparable(row_of(matrix, 0)), (Row{1, -1, 0, 0, 0, none}));
  EXPECT_EQ(comparable(row_of(matrix, 1)), (Row{1, 0, 1, 0, 0, none}));
  const EvictionMatrix layers({a, b, MapQuantity::kept, MapRows::layers, MapRuns::difference, 0, 1});
  EXPECT_EQ(comparable(row_of(layers, 0)), (Row{1, -0.5F, 0.5F, 0, 0, none}));
}

TEST_F(MadeRuns, OnlyRowsOfANewLayerAreNew) {
  const EvictionMatrix before({a, b, MapQuantity::kept, MapRows::all, MapRuns::a, 0, 0});
  auto next = std::make_shared<gui::Run>(*a);
  next->layers[1] = made_run(2, {{0, 0, 0, 0, -1, -1, 0, 0, 0, 0, -1, -1}})->layers[0];
  const EvictionMatrix after({next, b, MapQuantity::kept, MapRows::all, MapRuns::a, 0, 0});
  EXPECT_TRUE(after.same_row(before, 0));
  EXPECT_TRUE(after.same_row(before, 1));
  EXPECT_FALSE(after.same_row(before, 2));
  const EvictionMatrix stepped({a, b, MapQuantity::kept, MapRows::all, MapRuns::a, 0, 1});
  EXPECT_FALSE(stepped.same_row(before, 0));
}

TEST_F(MadeRuns, ALayerThatIsNotThereIsNothing) {
  a->layers[1] = nullptr;
  const EvictionMatrix matrix({a, b, MapQuantity::lifetime, MapRows::all, MapRuns::a, 0, 0});
  EXPECT_TRUE(std::isnan(row_of(matrix, 2)[0]));
  EXPECT_FALSE(matrix.has_layer(1));
}

struct Map : TwoRuns, testing::Test {
  Map() : TwoRuns("snapkv:window=8", "tova", example_document()) {
    open("eviction_map");
    view = find<MatrixView>("eviction_map_view");
    settle();
  }
  // Until the picture in the background is there.
  void settle() {
    panel->refresh_now();
    ASSERT_TRUE(wait_until([&] { return view->content().columns > 0 && !panel->property("busy").toBool(); }));
  }
  QPoint place_of(std::int64_t row, std::int64_t column) const {
    const MatrixGeometry geometry = view->geometry_now();
    return {static_cast<int>(geometry.x_of(static_cast<double>(column) + 0.5)),
            static_cast<int>(geometry.y_of(static_cast<double>(row) + 0.5))};
  }
  void choose(const char* name, const std::string& value) {
    auto* choice = find<Choice>(name);
    choice->show_value(value);
    emit choice->chosen(value);
    settle();
  }
  MatrixView* view = nullptr;
};

TEST_F(Map, ShowsWhatTheRunKeeps) {
  const auto run = store.run_a();
  for (int row = 0; row < run->rows; ++row)
    for (std::int64_t token = 0; token < run->prompt; ++token)
      EXPECT_EQ(view->value_at(row, token), run->layer(0)->evicted_at()(row, token) == 0 ? 0.0F : 1.0F);
  store.select_layer(2);
  settle();
  for (int row = 0; row < run->rows; ++row)
    for (std::int64_t token = 0; token < run->prompt; ++token)
      EXPECT_EQ(view->value_at(row, token), run->layer(2)->evicted_at()(row, token) == 0 ? 0.0F : 1.0F);
}

TEST_F(Map, APointedAtTokenIsEverybodysFocusAndIsDescribed) {
  store.set_zoom("tokens", {10, 30});
  wait_until([&] { return view->visible_columns() == Interval{10, 30}; });
  QTest::mouseMove(view->viewport(), place_of(1, 17));
  EXPECT_EQ(store.focus().token, 17);
  EXPECT_EQ(store.focus().layer, 0);
  EXPECT_EQ(store.run_a()->row_of(store.focus().head), 1);
  const QString said = find<Readout>("eviction_map_readout")->text();
  EXPECT_TRUE(said.contains("token 17")) << said.toStdString();
  EXPECT_TRUE(said.contains("KV head 1")) << said.toStdString();
  const bool kept = store.run_a()->layer(0)->evicted_at()(1, 17) < 0;
  EXPECT_TRUE(said.contains(kept ? "kept to the end" : "evicted when the prompt ended")) << said.toStdString();
}

TEST_F(Map, AClickSelectsTokenHeadsAndLayer) {
  choose("eviction_map_rows", "all");
  store.set_zoom("tokens", {10, 30});
  wait_until([&] { return view->visible_columns() == Interval{10, 30}; });
  QTest::mouseClick(view->viewport(), Qt::LeftButton, {}, place_of(5, 21));
  EXPECT_EQ(store.selection().layer, 2);
  EXPECT_EQ(store.selection().heads, (std::vector<int>{2, 3}));
  EXPECT_EQ(store.selection().tokens, (std::vector<TokenRange>{{21, 22}}));
}

TEST_F(Map, ZoomIsSharedAndTakenBack) {
  QTest::keyClick(view, Qt::Key_Plus);
  const Interval zoomed = view->visible_columns();
  EXPECT_LT(zoomed.high - zoomed.low, 212);
  EXPECT_EQ(store.zoom("tokens", {0, 212}), zoomed);
  store.back();
  EXPECT_TRUE(wait_until([&] { return view->visible_columns() == Interval{0, 212}; }));
}

TEST_F(Map, ADifferenceIsOfBothRuns) {
  choose("eviction_map_runs", "difference");
  const auto a = store.run_a(), b = store.run_b();
  for (std::int64_t token = 0; token < a->prompt; ++token)
    for (int row = 0; row < 2; ++row) {
      const int expected = static_cast<int>(b->kept(0, 2 * row, token, 0)) - static_cast<int>(a->kept(0, 2 * row, token, 0));
      EXPECT_EQ(view->value_at(row, token), static_cast<float>(expected));
    }
  const auto map = panel->figure();
  ASSERT_NE(map, nullptr);
  EXPECT_EQ(dynamic_cast<figure::HeatMap&>(*map).columns, 212);
  EXPECT_FALSE(panel->table().rows.empty());
}

TEST_F(Map, MovesOnWithTheStep) {
  choose("eviction_map_runs", "b");
  const auto run = store.run_b();
  for (const int step : {1, 7, 12}) {
    store.select_step(step);
    settle();
    for (std::int64_t token = 0; token < run->prompt + step; ++token)
      EXPECT_EQ(view->value_at(0, token), run->kept(0, 0, token, step) ? 1.0F : 0.0F) << "step " << step;
    if (step < 12) {
      EXPECT_TRUE(std::isnan(view->value_at(0, run->prompt + step)));
    }
  }
}

TEST_F(Map, IsDescribedWithItsOwnTraceUntilTheNextIsThere) {
  choose("eviction_map_rows", "all");
  const int before = store.selection().run_a, smaller = open_smaller();
  const auto rows = [this] {
    const auto map = panel->figure();
    return map != nullptr ? dynamic_cast<const figure::HeatMap&>(*map).row_names.size() : 0;
  };
  ASSERT_EQ(panel->table().rows.size(), 212U);
  store.select_run(Side::a, smaller);
  panel->refresh_now();
  EXPECT_EQ(rows(), 3U);  // the large trace's layers: the small one's map is still being made
  EXPECT_EQ(panel->table().columns.size(), 2U + 3 * 2);
  settle();
  EXPECT_EQ(rows(), 2U);
  EXPECT_EQ(panel->table().columns.size(), 2U + 2 * 1);
  store.select_run(Side::a, before);
  panel->refresh_now();
  store.set_focus({.token = 190, .head = 3, .layer = 2});
  panel->refresh_now();
  EXPECT_EQ(rows(), 2U);
  settle();
  EXPECT_EQ(rows(), 3U);
}

TEST_F(Map, SaysWhatIsMissing) {
  store.select_run(Side::b, -1);
  emit find<Choice>("eviction_map_runs")->chosen("b");
  wait_until([&] { return panel->findChild<QLabel*>("message")->isVisible(); });
  EXPECT_TRUE(panel->findChild<QLabel*>("message")->text().contains("No run B"));
  EXPECT_EQ(panel->figure(), nullptr);
}

}  // namespace
}  // namespace kvreplay::gui
