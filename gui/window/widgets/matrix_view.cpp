#include "gui/window/widgets/matrix_view.h"

#include <QKeyEvent>
#include <QMouseEvent>
#include <QPainter>
#include <QScrollBar>
#include <QWheelEvent>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "gui/window/theme.h"

namespace kvreplay::gui {
namespace {

constexpr double fewest_columns = 8, fewest_rows = 4;  // that can be zoomed to
constexpr double zoom_step = 1.25;                     // of a notch of the wheel, or a key
constexpr int scroll_units = 1'000'000;                // of a whole axis
constexpr int drag_begins = 4;                         // pixels

double span(const Interval& interval) { return interval.high - interval.low; }

// Of the same length where that fits, within [0, count].
Interval within(Interval interval, double count, double fewest) {
  const double length = std::clamp(span(interval), std::min(fewest, count), count);
  const double middle = (interval.low + interval.high) / 2;
  double low = span(interval) == length ? interval.low : middle - length / 2;
  low = std::clamp(low, 0.0, count - length);
  return {low, low + length};
}

Interval zoomed(const Interval& interval, double at, double factor) {
  return {at + (interval.low - at) * factor, at + (interval.high - at) * factor};
}

}  // namespace

MatrixView::MatrixView(QWidget* parent) : QAbstractScrollArea(parent) {
  setFrameShape(QFrame::NoFrame);
  setFocusPolicy(Qt::StrongFocus);
  viewport()->setMouseTracking(true);
  viewport()->setCursor(Qt::CrossCursor);
  setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOn);
  setVerticalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
  setMinimumSize(220, 120);
  setWhatsThis(
      "Wheel: zoom (Ctrl: rows) · drag: pan · Shift+drag: zoom into a rectangle · Ctrl+drag, or drag along the scale: "
      "select "
      "tokens · click: select · arrows: pan · + −: zoom · 0: all · Shift+arrows: cell cursor · Enter: select its cell");
  viewport()->setAutoFillBackground(false);
}

void MatrixView::set_content(MatrixContent content) {
  const bool same_size = content.columns == content_.columns && content.rows == content_.rows;
  content_ = std::move(content);
  std::stable_sort(content_.marks.begin(), content_.marks.end(),
                   [](const MatrixMark& a, const MatrixMark& b) { return a.begin < b.begin; });
  setVerticalScrollBarPolicy(content_.zoom_rows ? Qt::ScrollBarAlwaysOn : Qt::ScrollBarAlwaysOff);
  image_is_old_ = true;
  if (!same_size) set_visible({}, {});
  viewport()->update();
}

void MatrixView::set_visible(Interval columns, Interval rows) {
  if (!(span(columns) > 0)) columns = {0, content_.columns};
  if (!(span(rows) > 0) || !content_.zoom_rows) rows = {0, content_.rows};
  columns = within(columns, content_.columns, fewest_columns);
  rows = within(rows, content_.rows, fewest_rows);
  if (columns == columns_ && rows == rows_) return;
  columns_ = columns;
  rows_ = rows;
  image_is_old_ = true;
  update_scroll_bars();
  viewport()->update();
}

void MatrixView::change_visible(Interval columns, Interval rows) {
  const Interval old_columns = columns_, old_rows = rows_;
  set_visible(columns, rows);
  if (!(old_columns == columns_) || !(old_rows == rows_)) emit visible_changed(columns_, rows_);
}

void MatrixView::set_focus_cell(std::int64_t row, std::int64_t column) {
  if (row == focus_row_ && column == focus_column_) return;
  focus_row_ = row;
  focus_column_ = column;
  viewport()->update();
}

void MatrixView::set_selected_columns(std::vector<TokenRange> columns) {
  if (columns == selected_columns_) return;
  selected_columns_ = std::move(columns);
  viewport()->update();
}

void MatrixView::set_selected_rows(std::vector<std::int64_t> rows) {
  if (rows == selected_rows_) return;
  selected_rows_ = std::move(rows);
  viewport()->update();
}

float MatrixView::value_at(std::int64_t row, std::int64_t column) const {
  for (auto layer = content_.layers.rbegin(); layer != content_.layers.rend(); ++layer) {
    const double across = (static_cast<double>(column) + 0.5 - layer->left) / layer->column_size;
    const double down = (static_cast<double>(row) + 0.5 - layer->top) / layer->row_size;
    if (across < 0 || down < 0 || across >= static_cast<double>(layer->pyramid->columns()) ||
        down >= static_cast<double>(layer->pyramid->rows()))
      continue;
    return layer->pyramid->value(static_cast<std::int64_t>(down), static_cast<std::int64_t>(across));
  }
  return std::numeric_limits<float>::quiet_NaN();
}

// ---- zoom and pan ------------------------------------------------------------------------------------------------------

void MatrixView::zoom(double factor) { zoom_at(geometry_now().map.center(), factor, content_.zoom_both ? factor : 1); }

void MatrixView::show_all() { change_visible({0, content_.columns}, {0, content_.rows}); }

void MatrixView::zoom_at(QPointF at, double columns_factor, double rows_factor) {
  const MatrixGeometry geometry = geometry_now();
  const double column = std::clamp(geometry.column_at(at.x()), columns_.low, columns_.high);
  const double row = std::clamp(geometry.row_at(at.y()), rows_.low, rows_.high);
  // At the closest zoom, the place under the pointer must not drift away.
  const auto limited = [](const Interval& interval, double factor, double count, double fewest) {
    return std::clamp(factor, std::min(1.0, std::min(fewest, count) / span(interval)), count / span(interval));
  };
  change_visible(zoomed(columns_, column, limited(columns_, columns_factor, content_.columns, fewest_columns)),
                 zoomed(rows_, row, limited(rows_, rows_factor, content_.rows, fewest_rows)));
}

void MatrixView::pan(double columns, double rows) {
  change_visible({columns_.low + columns, columns_.high + columns}, {rows_.low + rows, rows_.high + rows});
}

void MatrixView::update_scroll_bars() {
  moving_scroll_bars_ = true;
  const auto put = [](QScrollBar* bar, const Interval& interval, double count) {
    const double unit = count > 0 ? scroll_units / count : 0;
    const int page = static_cast<int>(span(interval) * unit);
    bar->setRange(0, std::max(0, scroll_units - page));
    bar->setPageStep(std::max(1, page));
    bar->setSingleStep(std::max(1, page / 10));
    bar->setValue(static_cast<int>(interval.low * unit));
  };
  put(horizontalScrollBar(), columns_, content_.columns);
  put(verticalScrollBar(), rows_, content_.rows);
  moving_scroll_bars_ = false;
}

void MatrixView::scrollContentsBy(int dx, int dy) {
  if (moving_scroll_bars_) return;
  const auto moved = [](const QScrollBar* bar, const Interval& interval, double count) {
    const double low = bar->value() * count / scroll_units;
    return Interval{low, low + span(interval)};
  };
  change_visible(dx != 0 ? moved(horizontalScrollBar(), columns_, content_.columns) : columns_,
                 dy != 0 ? moved(verticalScrollBar(), rows_, content_.rows) : rows_);
}

// ---- mouse and keys ----------------------------------------------------------------------------------------------------

std::int64_t MatrixView::cell(double place, double count) const {
  return place >= 0 && place < count ? static_cast<std::int64_t>(place) : -1;
}

void MatrixView::wheelEvent(QWheelEvent* event) {
  const QPoint turned = event->angleDelta();
  const bool across = std::abs(turned.x()) > std::abs(turned.y());
  if (across || (event->modifiers() & Qt::ShiftModifier) != 0) {
    pan(-(across ? turned.x() : turned.y()) / 1200.0 * span(columns_), 0);
  } else {
    const double factor = std::pow(zoom_step, -turned.y() / 120.0);
    const bool rows = content_.zoom_rows && (event->modifiers() & Qt::ControlModifier) != 0;
    const bool both = content_.zoom_both && !rows;
    zoom_at(event->position(), rows ? 1 : factor, rows || both ? factor : 1);
  }
  event->accept();
}

void MatrixView::mousePressEvent(QMouseEvent* event) {
  if (event->button() != Qt::LeftButton) return event->ignore();
  gesture_ = Gesture::pressed;
  pressed_at_ = gesture_at_ = event->pos();
  pressed_columns_ = columns_;
  pressed_rows_ = rows_;
  pressed_with_ = event->modifiers();
}

void MatrixView::mouseMoveEvent(QMouseEvent* event) {
  const QPoint at = event->pos();
  if (gesture_ == Gesture::none) return hover(at);
  const MatrixGeometry geometry = geometry_now();
  if (gesture_ == Gesture::pressed) {
    if ((at - pressed_at_).manhattanLength() < drag_begins) return;
    const bool on_scale = pressed_at_.y() > geometry.map.bottom() || pressed_at_.y() < geometry.map.top();
    gesture_ = (pressed_with_ & Qt::ShiftModifier) != 0                 ? Gesture::rectangle
               : on_scale || (pressed_with_ & Qt::ControlModifier) != 0 ? Gesture::columns
                                                                        : Gesture::pan;
    viewport()->setCursor(gesture_ == Gesture::pan ? Qt::ClosedHandCursor : Qt::CrossCursor);
  }
  gesture_at_ = at;
  if (gesture_ == Gesture::pan) {
    const double across = (pressed_at_.x() - at.x()) * span(pressed_columns_) / geometry.map.width();
    const double down = (pressed_at_.y() - at.y()) * span(pressed_rows_) / geometry.map.height();
    change_visible({pressed_columns_.low + across, pressed_columns_.high + across},
                   {pressed_rows_.low + down, pressed_rows_.high + down});
  }
  viewport()->update();
}

void MatrixView::mouseReleaseEvent(QMouseEvent* event) {
  if (event->button() != Qt::LeftButton) return;
  const MatrixGeometry geometry = geometry_now();
  const Gesture gesture = std::exchange(gesture_, Gesture::none);
  viewport()->setCursor(Qt::CrossCursor);
  viewport()->update();
  const auto column = [&](int x) { return std::clamp(geometry.column_at(x), 0.0, content_.columns); };
  const auto row = [&](int y) { return std::clamp(geometry.row_at(y), 0.0, content_.rows); };
  const QPoint from = pressed_at_, to = event->pos();
  if (gesture == Gesture::columns) {
    const double low = std::floor(column(std::min(from.x(), to.x()))), high = std::ceil(column(std::max(from.x(), to.x())));
    emit columns_selected(static_cast<std::int64_t>(low), static_cast<std::int64_t>(high));
  } else if (gesture == Gesture::rectangle) {
    const Interval columns{column(std::min(from.x(), to.x())), column(std::max(from.x(), to.x()))};
    const bool tall = content_.zoom_rows && std::abs(from.y() - to.y()) > drag_begins;
    change_visible(columns, tall ? Interval{row(std::min(from.y(), to.y())), row(std::max(from.y(), to.y()))} : rows_);
  } else if (gesture == Gesture::pressed && geometry.map.contains(to)) {
    emit clicked(cell(geometry.row_at(to.y() + 0.5), content_.rows),
                 cell(geometry.column_at(to.x() + 0.5), content_.columns), event->modifiers());
  }
}

void MatrixView::mouseDoubleClickEvent(QMouseEvent* event) {
  if (event->button() == Qt::LeftButton) zoom_at(event->position(), 0.25, content_.zoom_both ? 0.25 : 1);
}

void MatrixView::hover(QPoint at) {
  const MatrixGeometry geometry = geometry_now();
  std::int64_t row = -1, column = -1;
  if (geometry.map.contains(at)) {
    // A pixel stands for what lies under its middle, as in the picture.
    row = cell(geometry.row_at(at.y() + 0.5), content_.rows);
    column = cell(geometry.column_at(at.x() + 0.5), content_.columns);
  }
  if (row == focus_row_ && column == focus_column_) return;
  set_focus_cell(row, column);
  emit hovered(row, column);
}

bool MatrixView::viewportEvent(QEvent* event) {
  if (event->type() == QEvent::Leave && gesture_ == Gesture::none && (focus_row_ >= 0 || focus_column_ >= 0)) {
    set_focus_cell(-1, -1);
    emit hovered(-1, -1);
  }
  return QAbstractScrollArea::viewportEvent(event);
}

void MatrixView::move_cursor(int rows, int columns) {
  const auto moved = [](std::int64_t at, int by, const Interval& visible, double count) {
    if (at < 0) return static_cast<std::int64_t>((visible.low + visible.high) / 2);
    return std::clamp<std::int64_t>(at + by, 0, static_cast<std::int64_t>(count) - 1);
  };
  if (content_.columns <= 0 || content_.rows <= 0) return;
  const std::int64_t row = moved(focus_row_, rows, rows_, content_.rows);
  const std::int64_t column = moved(focus_column_, columns, columns_, content_.columns);
  const auto reach = [](const Interval& visible, std::int64_t at) {
    const auto place = static_cast<double>(at);
    return place < visible.low ? place - visible.low : place + 1 > visible.high ? place + 1 - visible.high : 0.0;
  };
  set_focus_cell(row, column);
  pan(reach(columns_, column), reach(rows_, row));
  emit hovered(row, column);
}

void MatrixView::keyPressEvent(QKeyEvent* event) {
  const bool shift = (event->modifiers() & Qt::ShiftModifier) != 0;
  if ((event->modifiers() & (Qt::ControlModifier | Qt::AltModifier)) != 0) return event->ignore();
  const double step = std::max(1.0, std::round(span(columns_) / 10));
  const double row_step = std::max(1.0, std::round(span(rows_) / 10));
  switch (event->key()) {
    case Qt::Key_Left: return shift ? move_cursor(0, -1) : pan(-step, 0);
    case Qt::Key_Right: return shift ? move_cursor(0, 1) : pan(step, 0);
    case Qt::Key_Up: return shift ? move_cursor(-1, 0) : pan(0, -row_step);
    case Qt::Key_Down: return shift ? move_cursor(1, 0) : pan(0, row_step);
    case Qt::Key_PageUp: return pan(-span(columns_), 0);
    case Qt::Key_PageDown: return pan(span(columns_), 0);
    case Qt::Key_Home: return pan(-content_.columns, 0);
    case Qt::Key_End: return pan(content_.columns, 0);
    case Qt::Key_Plus:
    case Qt::Key_Equal: return zoom(1 / (zoom_step * zoom_step));
    case Qt::Key_Minus: return zoom(zoom_step * zoom_step);
    case Qt::Key_0: return show_all();
    case Qt::Key_Return:
    case Qt::Key_Enter:
      if (focus_row_ >= 0 && focus_column_ >= 0) emit clicked(focus_row_, focus_column_, event->modifiers());
      return;
    default: QAbstractScrollArea::keyPressEvent(event);
  }
}

void MatrixView::focusInEvent(QFocusEvent* event) {
  QAbstractScrollArea::focusInEvent(event);
  viewport()->update();
}

void MatrixView::focusOutEvent(QFocusEvent* event) {
  QAbstractScrollArea::focusOutEvent(event);
  viewport()->update();
}

void MatrixView::resizeEvent(QResizeEvent* event) {
  QAbstractScrollArea::resizeEvent(event);
  image_is_old_ = true;
}

}  // namespace kvreplay::gui
