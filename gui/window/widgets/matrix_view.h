// A matrix as large as 131,072 columns: the visible part drawn into one image, with axes, marks, key, zoom, pan, hover and
// selection. It knows no store; a panel feeds it and passes on what it is asked for.
//
//   view->set_content({.columns = 131072, .rows = 32, .layers = {{pyramid}}, .scale = scale, ...});
//   view->set_visible(columns, rows);                                   // what the store says
//   connect(view, &MatrixView::visible_changed, ...);                   // what the user wants to see
//
// Mouse: wheel zooms at the pointer (Ctrl: rows), drag pans, Shift+drag zooms into a rectangle, Ctrl+drag or a drag along
// the scale selects columns, click selects a cell, double click zooms in. Keys: arrows pan, + and - zoom, Home and End, 0
// shows all, Shift+arrows move the cell cursor, Enter selects its cell.
#pragma once

#include <QAbstractScrollArea>
#include <QImage>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "gui/model/pyramid.h"
#include "gui/model/state.h"
#include "gui/window/widgets/color_scale.h"

namespace kvreplay::gui {

// A pyramid and where its cells lie in the view's columns and rows.
struct MatrixLayer {
  std::shared_ptr<const Pyramid> pyramid;
  double left = 0, top = 0, column_size = 1, row_size = 1;
};

// A named stretch of columns or rows ("needle").
struct MatrixMark {
  double begin = 0, end = 0;
  QString label;
};

struct MatrixContent {
  double columns = 0, rows = 0;
  std::vector<MatrixLayer> layers;  // later ones are finer and lie over the earlier
  ColorScale scale;
  QString column_label, row_label;
  std::function<QString(std::int64_t)> column_name;  // of the scale's numbers; absent: the column's number
  std::function<QString(std::int64_t)> column_text;  // below single columns, where they are wide enough; may be absent
  std::function<QString(std::int64_t)> row_name;     // of a row, or of a group where rows are grouped
  std::int64_t row_group = 1;
  std::vector<MatrixMark> marks;  // above the map
  std::vector<double> column_lines, row_lines;
  // A thin row of its own above the map: what is true of columns whatever the row (the kept set).
  std::optional<MatrixLayer> strip;
  ColorScale strip_scale;
  QString strip_label;
  bool zoom_rows = false;    // rows can be zoomed and scrolled, too
  bool zoom_both = false;    // and the wheel does both at once
  bool row_numbers = false;  // the rows are numbers of an axis with ticks, not names
  double first_row = 0;      // of such an axis: the number of row 0, where rows are numbered without gaps
};

// Where columns and rows lie on the widget, in its own (device-independent) pixels.
struct MatrixGeometry {
  QRect map;
  Interval columns, rows;
  double x_of(double column) const { return map.left() + (column - columns.low) / span(columns) * map.width(); }
  double y_of(double row) const { return map.top() + (row - rows.low) / span(rows) * map.height(); }
  double column_at(double x) const { return columns.low + (x - map.left()) / map.width() * span(columns); }
  double row_at(double y) const { return rows.low + (y - map.top()) / map.height() * span(rows); }
  static double span(const Interval& interval) { return interval.high - interval.low; }
};

class MatrixView final : public QAbstractScrollArea {
  Q_OBJECT

 public:
  explicit MatrixView(QWidget* parent = nullptr);

  void set_content(MatrixContent content);
  const MatrixContent& content() const { return content_; }
  // Clamped to the content; an empty interval: all.
  void set_visible(Interval columns, Interval rows);
  Interval visible_columns() const { return columns_; }
  Interval visible_rows() const { return rows_; }
  // What is pointed at, here or elsewhere; -1: nothing.
  void set_focus_cell(std::int64_t row, std::int64_t column);
  void set_selected_columns(std::vector<TokenRange> columns);
  void set_selected_rows(std::vector<std::int64_t> rows);

  MatrixGeometry geometry_now() const;
  // The value under a cell as the finest layer there has it; NaN: none.
  float value_at(std::int64_t row, std::int64_t column) const;
  // Zooms by a factor (below 1: in) about the middle.
  void zoom(double factor);
  void show_all();

  QSize sizeHint() const override { return {640, 320}; }

 signals:
  // The user zoomed or panned. The view shows it already.
  void visible_changed(kvreplay::gui::Interval columns, kvreplay::gui::Interval rows);
  void hovered(std::int64_t row, std::int64_t column);  // -1, -1: nothing any more
  void clicked(std::int64_t row, std::int64_t column, Qt::KeyboardModifiers modifiers);
  void columns_selected(std::int64_t begin, std::int64_t end);

 protected:
  void paintEvent(QPaintEvent* event) override;
  void resizeEvent(QResizeEvent* event) override;
  void wheelEvent(QWheelEvent* event) override;
  void mousePressEvent(QMouseEvent* event) override;
  void mouseMoveEvent(QMouseEvent* event) override;
  void mouseReleaseEvent(QMouseEvent* event) override;
  void mouseDoubleClickEvent(QMouseEvent* event) override;
  void keyPressEvent(QKeyEvent* event) override;
  void focusInEvent(QFocusEvent* event) override;
  void focusOutEvent(QFocusEvent* event) override;
  bool viewportEvent(QEvent* event) override;
  void scrollContentsBy(int dx, int dy) override;

 private:
  enum class Gesture : std::uint8_t { none, pressed, pan, rectangle, columns };
  struct Layout;
  Layout lay_out() const;

  void render(const Layout& layout);
  void paint_map(QPainter& painter, const Layout& layout);
  void paint_grid(QPainter& painter, const MatrixGeometry& geometry);
  void paint_marks(QPainter& painter, const Layout& layout);
  void paint_columns_axis(QPainter& painter, const Layout& layout);
  void paint_rows_axis(QPainter& painter, const Layout& layout);
  void paint_selection(QPainter& painter, const Layout& layout);
  void paint_focus(QPainter& painter, const Layout& layout);
  void paint_gesture(QPainter& painter, const Layout& layout);
  QString row_text(std::int64_t row) const;

  void change_visible(Interval columns, Interval rows);
  void zoom_at(QPointF at, double columns_factor, double rows_factor);
  void pan(double columns, double rows);
  void update_scroll_bars();
  void hover(QPoint at);
  void move_cursor(int rows, int columns);
  std::int64_t cell(double place, double count) const;

  MatrixContent content_;
  Interval columns_{0, 1}, rows_{0, 1};
  std::int64_t focus_row_ = -1, focus_column_ = -1;
  std::vector<TokenRange> selected_columns_;
  std::vector<std::int64_t> selected_rows_;

  QImage image_, strip_;
  bool image_is_old_ = true;
  std::vector<float> values_;

  Gesture gesture_ = Gesture::none;
  QPoint pressed_at_, gesture_at_;
  Interval pressed_columns_, pressed_rows_;
  Qt::KeyboardModifiers pressed_with_;
  bool moving_scroll_bars_ = false;
};

}  // namespace kvreplay::gui
