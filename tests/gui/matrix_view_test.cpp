// Does a matrix view show each cell where it says that it is, and does it obey mouse and keys?
#include "gui/window/widgets/matrix_view.h"

#include <gtest/gtest.h>

#include <QScrollBar>
#include <QSignalSpy>
#include <QTest>
#include <QWheelEvent>
#include <cmath>
#include <random>

#include "gui/window/theme.h"
#include "gui/window/widgets/choice.h"
#include "gui/window/widgets/token_axis.h"

namespace kvreplay::gui {
namespace {

constexpr std::int64_t columns = 131072, rows = 32;

// Neighbours are far apart in colour.
float cell_value(std::int64_t row, std::int64_t column) {
  return static_cast<float>((row * 7919 + column * 617) % 1000) / 1000;
}

// The table of colours has steps: they differ by little more than rounding.
void expect_color(QRgb shown, QRgb expected, const std::string& where) {
  EXPECT_NEAR(qRed(shown), qRed(expected), 2) << where;
  EXPECT_NEAR(qGreen(shown), qGreen(expected), 2) << where;
  EXPECT_NEAR(qBlue(shown), qBlue(expected), 2) << where;
}

struct View : testing::Test {
  View() {
    apply_theme(Theme::light);
    std::vector<float> values;
    values.reserve(rows * columns);
    for (std::int64_t row = 0; row < rows; ++row)
      for (std::int64_t column = 0; column < columns; ++column) values.push_back(cell_value(row, column));
    content.columns = columns;
    content.rows = rows;
    content.layers = {{std::make_shared<const Pyramid>(std::make_shared<StoredMatrix>(rows, columns, std::move(values)),
                                                       Reduction::maximum)}};
    content.scale.label = "value";
    view.resize(900, 500);
    view.set_content(content);
    view.show();
  }
  void wheel(QPoint at, int notches, Qt::KeyboardModifiers keys = {}) {
    QWheelEvent event(at, view.viewport()->mapToGlobal(at), {}, {0, 120 * notches}, Qt::NoButton, keys, Qt::NoScrollPhase,
                      false);
    QCoreApplication::sendEvent(view.viewport(), &event);
  }
  void drag(QPoint from, QPoint to, Qt::KeyboardModifiers keys = {}) {
    QTest::mousePress(view.viewport(), Qt::LeftButton, keys, from);
    QTest::mouseMove(view.viewport(), (from + to) / 2);
    QTest::mouseMove(view.viewport(), to);
    QTest::mouseRelease(view.viewport(), Qt::LeftButton, keys, to);
  }
  static double span(const Interval& interval) { return interval.high - interval.low; }

  MatrixContent content;
  MatrixView view;
};

TEST_F(View, PositionsAndPixelsAgreeAtEveryZoom) {
  std::mt19937 random(1);
  for (double visible = columns; visible >= 8; visible /= 2.3) {
    const double low = std::uniform_real_distribution<double>(0, columns - visible)(random);
    view.set_visible({low, low + visible}, {});
    const MatrixGeometry geometry = view.geometry_now();
    EXPECT_NEAR(MatrixGeometry::span(geometry.columns), visible, 1e-6);
    for (int x = geometry.map.left(); x <= geometry.map.right(); x += 7)
      EXPECT_NEAR(geometry.x_of(geometry.column_at(x)), x, 1e-6);
    for (int y = geometry.map.top(); y <= geometry.map.bottom(); ++y)
      EXPECT_NEAR(geometry.y_of(geometry.row_at(y)), y, 1e-6);
    EXPECT_NEAR(geometry.column_at(geometry.map.left()), low, 1e-6);
    EXPECT_NEAR(geometry.column_at(geometry.map.right() + 1), low + visible, 1e-6);
  }
}

// Where a column has several pixels, what a pixel shows and what pointing at it says are the same cell.
TEST_F(View, ThePictureIsWhatThePointerSays) {
  for (const double visible : {9.0, 40.0, 300.0}) {
    view.set_visible({70000.3, 70000.3 + visible}, {});
    QSignalSpy hovered(&view, &MatrixView::hovered);
    const QImage picture = view.viewport()->grab().toImage();
    const MatrixGeometry geometry = view.geometry_now();
    int compared = 0;
    for (int x = geometry.map.left() + 3; x < geometry.map.right(); x += 13)
      for (int y = geometry.map.top() + 4; y < geometry.map.bottom(); y += 31) {
        const auto column = static_cast<std::int64_t>(geometry.column_at(x + 0.5));
        const auto row = static_cast<std::int64_t>(geometry.row_at(y + 0.5));
        // Lines between cells are no picture.
        const double from_line = std::fabs(y - std::lround(geometry.y_of(std::round(geometry.row_at(y)))));
        const double from_column = std::fabs(x - std::lround(geometry.x_of(std::round(geometry.column_at(x)))));
        if (from_line < 2 || from_column < 2) continue;
        expect_color(picture.pixel(x, y), view.content().scale.color(cell_value(row, column), current_style()),
                     std::to_string(visible) + " columns, cell " + std::to_string(row) + "," + std::to_string(column));
        QTest::mouseMove(view.viewport(), QPoint(x, y));
        ASSERT_FALSE(hovered.empty());
        EXPECT_EQ(hovered.back()[0].toLongLong(), row);
        EXPECT_EQ(hovered.back()[1].toLongLong(), column);
        ++compared;
      }
    EXPECT_GT(compared, visible < 100 ? 100 : -1);  // three pixels a column: hardly one without a line
    view.set_focus_cell(-1, -1);
  }
}

TEST_F(View, TheWheelKeepsWhatIsUnderThePointer) {
  const QPoint at(500, 200);
  const double before = view.geometry_now().column_at(at.x());
  for (int notch = 0; notch < 60; ++notch) {
    wheel(at, 1);
    EXPECT_NEAR(view.geometry_now().column_at(at.x()), before, 1e-6);
  }
  EXPECT_NEAR(span(view.visible_columns()), 8, 1e-6);  // no closer than that
  for (int notch = 0; notch < 60; ++notch) wheel(at, -1);
  EXPECT_EQ(view.visible_columns(), (Interval{0, columns}));
}

TEST_F(View, ADragPansAsFarAsThePointer) {
  view.set_visible({1000, 1800}, {});
  const MatrixGeometry geometry = view.geometry_now();
  QSignalSpy changed(&view, &MatrixView::visible_changed);
  drag(QPoint(500, 200), QPoint(400, 200));
  EXPECT_NEAR(view.visible_columns().low, 1000 + 100 * 800.0 / geometry.map.width(), 1e-6);
  EXPECT_GE(changed.size(), 1);
  drag(QPoint(100, 200), QPoint(890, 200));
  drag(QPoint(100, 200), QPoint(890, 200));
  EXPECT_EQ(view.visible_columns().low, 0);  // not beyond the first
  EXPECT_NEAR(span(view.visible_columns()), 800, 1e-6);
}

TEST_F(View, ShiftAndDragZoomIntoWhatIsFramed) {
  const MatrixGeometry geometry = view.geometry_now();
  drag(QPoint(300, 200), QPoint(420, 260), Qt::ShiftModifier);
  EXPECT_NEAR(view.visible_columns().low, geometry.column_at(300), 1e-6);
  EXPECT_NEAR(view.visible_columns().high, geometry.column_at(420), 1e-6);
}

TEST_F(View, ControlAndDragOrADragAlongTheScaleSelect) {
  view.set_visible({1000, 1100}, {});
  const MatrixGeometry geometry = view.geometry_now();
  QSignalSpy selected(&view, &MatrixView::columns_selected);
  const int from = static_cast<int>(geometry.x_of(1010.5)), to = static_cast<int>(geometry.x_of(1019.5));
  drag(QPoint(from, 200), QPoint(to, 230), Qt::ControlModifier);
  ASSERT_EQ(selected.size(), 1);
  EXPECT_EQ(selected[0][0].toLongLong(), 1010);
  EXPECT_EQ(selected[0][1].toLongLong(), 1020);
  drag(QPoint(to, geometry.map.bottom() + 8), QPoint(from, geometry.map.bottom() + 8));
  ASSERT_EQ(selected.size(), 2);
  EXPECT_EQ(selected[1][0].toLongLong(), 1010);
  EXPECT_EQ(selected[1][1].toLongLong(), 1020);
}

TEST_F(View, AClickIsACell) {
  view.set_visible({1000, 1020}, {});
  const MatrixGeometry geometry = view.geometry_now();
  QSignalSpy clicked(&view, &MatrixView::clicked);
  QTest::mouseClick(view.viewport(), Qt::LeftButton, {},
                    QPoint(static_cast<int>(geometry.x_of(1013.5)), static_cast<int>(geometry.y_of(5.5))));
  ASSERT_EQ(clicked.size(), 1);
  EXPECT_EQ(clicked[0][0].toLongLong(), 5);
  EXPECT_EQ(clicked[0][1].toLongLong(), 1013);
}

TEST_F(View, KeysPanZoomAndMoveTheCellCursor) {
  QTest::keyClick(&view, Qt::Key_Plus);
  EXPECT_LT(span(view.visible_columns()), columns);
  QTest::keyClick(&view, Qt::Key_0);
  EXPECT_EQ(view.visible_columns(), (Interval{0, columns}));
  view.set_visible({1000, 1100}, {});
  QTest::keyClick(&view, Qt::Key_Right);
  EXPECT_EQ(view.visible_columns(), (Interval{1010, 1110}));
  QTest::keyClick(&view, Qt::Key_End);
  EXPECT_EQ(view.visible_columns().high, columns);
  QTest::keyClick(&view, Qt::Key_Home);
  EXPECT_EQ(view.visible_columns().low, 0);

  view.set_focus_cell(3, 99);
  QSignalSpy hovered(&view, &MatrixView::hovered), clicked(&view, &MatrixView::clicked);
  QTest::keyClick(&view, Qt::Key_Right, Qt::ShiftModifier);  // out of sight: the view follows
  ASSERT_EQ(hovered.size(), 1);
  EXPECT_EQ(hovered[0][1].toLongLong(), 100);
  EXPECT_EQ(view.visible_columns(), (Interval{1, 101}));
  QTest::keyClick(&view, Qt::Key_Return);
  ASSERT_EQ(clicked.size(), 1);
  EXPECT_EQ(clicked[0][0].toLongLong(), 3);
  EXPECT_EQ(clicked[0][1].toLongLong(), 100);
}

TEST_F(View, TheScrollBarIsTheVisiblePart) {
  view.set_visible({32768, 65536}, {});
  EXPECT_EQ(view.horizontalScrollBar()->value(), 250000);
  EXPECT_EQ(view.horizontalScrollBar()->pageStep(), 250000);
  view.horizontalScrollBar()->setValue(500000);
  EXPECT_EQ(view.visible_columns(), (Interval{65536, 98304}));
}

TEST_F(View, AFinerLayerLiesOverTheCoarser) {
  content.layers = {
      {std::make_shared<const Pyramid>(std::make_shared<StoredMatrix>(1, 2, std::vector<float>{0.25F, 0.75F}),
                                       Reduction::maximum),
       0, 0, columns / 2.0, rows},
      {std::make_shared<const Pyramid>(std::make_shared<StoredMatrix>(1, 4, std::vector<float>{0.1F, 0.2F, 0.3F, 0.4F}),
                                       Reduction::maximum),
       100, 2, 1, 1}};
  view.set_content(content);
  EXPECT_EQ(view.value_at(0, 5), 0.25F);
  EXPECT_EQ(view.value_at(9, columns - 1), 0.75F);
  EXPECT_EQ(view.value_at(2, 102), 0.3F);
  EXPECT_EQ(view.value_at(3, 102), 0.25F);
  view.set_visible({96, 112}, {});
  const QImage picture = view.viewport()->grab().toImage();
  const MatrixGeometry geometry = view.geometry_now();
  const auto at = [&](double row, double column) {
    return picture.pixel(static_cast<int>(geometry.x_of(column + 0.5)), static_cast<int>(geometry.y_of(row + 0.6)));
  };
  expect_color(at(2, 102), content.scale.color(0.3F, current_style()), "the finer layer");
  expect_color(at(3, 102), content.scale.color(0.25F, current_style()), "the coarser layer");
}

TEST(ColorScales, PutStatesAmountsAndDecadesInTheirPlaces) {
  ColorScale scale;
  scale.form = ColorScale::Form::logarithmic;
  scale.low = 0.001, scale.high = 1;
  EXPECT_NEAR(scale.position(0.001), 0, 1e-9);
  EXPECT_NEAR(scale.position(0.01), 1.0 / 3, 1e-9);
  EXPECT_NEAR(scale.position(1), 1, 1e-9);
  EXPECT_EQ(scale.position(0), 0);
  scale.form = ColorScale::Form::symmetric_log;
  EXPECT_EQ(scale.position(0.0005), 0.5);
  EXPECT_NEAR(scale.position(-1), 0, 1e-9);
  EXPECT_NEAR(scale.position(0.1), 0.5 + 0.5 * 2 / 3, 1e-9);
  // A table gives what one value gives, but for its steps.
  for (const auto form : {ColorScale::Form::linear, ColorScale::Form::logarithmic, ColorScale::Form::symmetric_log}) {
    scale.form = form;
    scale.states = {{0.25F, "a state", true}};
    const ColorTable table(scale, current_style());
    for (const float value : {-1.0F, 0.0F, 0.01F, 0.25F, 0.6F, 1.0F, std::nanf("")}) {
      QRgb color = 0;
      table.colors(&value, 1, &color);
      expect_color(color, scale.color(value, current_style()), std::to_string(value));
    }
  }
}

TEST(TokenClicks, ReplaceAddTakeAwayAndExtend) {
  using Ranges = std::vector<TokenRange>;
  EXPECT_EQ(clicked_tokens({{3, 9}}, 20, {}), (Ranges{{20, 21}}));
  EXPECT_EQ(clicked_tokens({{3, 9}}, 20, Qt::ControlModifier), (Ranges{{3, 9}, {20, 21}}));
  EXPECT_EQ(clicked_tokens({{3, 9}}, 5, Qt::ControlModifier), (Ranges{{3, 5}, {6, 9}}));
  EXPECT_EQ(clicked_tokens({{3, 4}}, 3, Qt::ControlModifier), (Ranges{}));
  EXPECT_EQ(clicked_tokens({{3, 4}}, 10, Qt::ShiftModifier), (Ranges{{3, 11}}));
}

TEST(Choices, SpeakInValues) {
  Choice choice("choice", "what", {{"a", "First"}, {"b", "Second"}}, nullptr);
  QSignalSpy chosen(&choice, &Choice::chosen);
  choice.show_value("b");
  EXPECT_EQ(choice.value(), "b");
  EXPECT_EQ(chosen.size(), 0);
  choice.show();
  QTest::keyClick(&choice, Qt::Key_Up);
  EXPECT_EQ(choice.value(), "a");
  EXPECT_EQ(chosen.size(), 1);
  choice.set_options({{"b", "Second"}, {"a", "First"}, {"c", "Third"}});
  EXPECT_EQ(choice.value(), "a");
}

}  // namespace
}  // namespace kvreplay::gui
