#include "gui/window/widgets/head_grid_view.h"

#include <QImage>
#include <QKeyEvent>
#include <QMouseEvent>
#include <QPainter>
#include <algorithm>
#include <cmath>

#include "gui/window/theme.h"

namespace kvreplay::gui {
namespace {

constexpr int margin = 8;
constexpr double widest_cell = 132, highest_cell = 56;

QFont tick_font() { return current_style().font(current_style().tick_size); }

double width_of(const QString& text) { return QFontMetricsF(tick_font()).horizontalAdvance(text); }

}  // namespace

struct HeadGridView::Layout {
  QRectF cells;
  double key_height = 0, names_width = 0, line = 0;
};

HeadGridView::HeadGridView(QWidget* parent) : QWidget(parent) {
  setMouseTracking(true);
  setFocusPolicy(Qt::StrongFocus);
  setMinimumSize(200, 140);
  setWhatsThis(
      "Click: layer and head · Ctrl+click: several heads · a layer's name: all its heads · arrows move, Enter selects");
}

void HeadGridView::set_grid(HeadGrid grid) {
  grid_ = std::move(grid);
  update();
}

void HeadGridView::set_selected(int row, std::vector<int> columns) {
  selected_row_ = row;
  selected_columns_ = std::move(columns);
  update();
}

void HeadGridView::set_focus_cell(std::optional<HeadGrid::Place> place) {
  if (place == focus_) return;
  focus_ = place;
  update();
}

HeadGridView::Layout HeadGridView::lay_out() const {
  Layout layout;
  const figure::Style& style = current_style();
  layout.line = figure::line_height(tick_font());
  layout.key_height = paint_key(grid_.scale, style, nullptr, 0, 0, width() - 2 * margin);
  layout.names_width = width_of(grid_.row_label);
  for (int row = 0; row < grid_.rows && grid_.row_name; ++row)
    layout.names_width = std::max(layout.names_width, width_of(grid_.row_name(row)));
  const double left = 2 * margin + layout.names_width, top = margin + layout.key_height + layout.line + 4;
  const double room = width() - left - margin, height_left = height() - top - 2 * layout.line - margin;
  const double cell_width = std::clamp(room / std::max(1, grid_.columns), 4.0, widest_cell);
  const double cell_height = std::clamp(height_left / std::max(1, grid_.rows), 4.0, highest_cell);
  layout.cells = QRectF(left, top, cell_width * grid_.columns, cell_height * grid_.rows);
  return layout;
}

QRectF HeadGridView::cell(int row, int column) const {
  const QRectF cells = painting_ ? *painting_ : lay_out().cells;
  const double width = cells.width() / std::max(1, grid_.columns), height = cells.height() / std::max(1, grid_.rows);
  return {cells.left() + column * width, cells.top() + row * height, width, height};
}

std::optional<HeadGrid::Place> HeadGridView::cell_at(QPointF at) const {
  const QRectF cells = lay_out().cells;
  if (!cells.contains(at) || grid_.rows == 0 || grid_.columns == 0) return std::nullopt;
  const int row = static_cast<int>((at.y() - cells.top()) / cells.height() * grid_.rows);
  const int column = static_cast<int>((at.x() - cells.left()) / cells.width() * grid_.columns);
  return HeadGrid::Place{std::min(row, grid_.rows - 1), std::min(column, grid_.columns - 1)};
}

// ---- drawing -----------------------------------------------------------------------------------------------------------

void HeadGridView::paintEvent(QPaintEvent* /*event*/) {
  const figure::Style& style = current_style();
  QPainter painter(this);
  painter.fillRect(rect(), style.background);
  if (grid_.rows == 0 || grid_.columns == 0) return;
  const Layout layout = lay_out();
  painting_ = layout.cells;
  paint_key(grid_.scale, style, &painter, margin, margin / 2, width() - 2 * margin);
  paint_cells(painter);
  if (grid_.map_size == 1) paint_numbers(painter);
  paint_names(painter, layout);
  paint_marks(painter);
  painting_.reset();
}

void HeadGridView::paint_cells(QPainter& painter) {
  const figure::Style& style = current_style();
  const int wide = grid_.columns * grid_.map_size;
  QImage image(wide, grid_.rows, QImage::Format_RGB32);
  for (int row = 0; row < grid_.rows; ++row)
    for (int x = 0; x < wide; ++x)
      image.setPixel(
          x, row,
          grid_.scale.color(
              grid_.values[static_cast<std::size_t>(row) * static_cast<std::size_t>(wide) + static_cast<std::size_t>(x)],
              style));
  for (int row = 0; row < grid_.rows; ++row)
    for (int column = 0; column < grid_.columns; ++column) {
      const QRectF place = cell(row, column);
      const double gap = place.width() > 10 && place.height() > 10 ? 1 : 0.5;
      painter.drawImage(place.adjusted(gap, gap, -gap, -gap), image,
                        QRectF(column * grid_.map_size, row, grid_.map_size, 1));
    }
}

void HeadGridView::paint_numbers(QPainter& painter) {
  if (!grid_.number) return;
  const figure::Style& style = current_style();
  const QRectF first = cell(0, 0);
  double widest = 0;
  for (const float value : grid_.values) widest = std::max(widest, width_of(grid_.number(value)));
  if (widest + 6 > first.width() || first.height() < style.tick_size * 1.2) return;
  painter.setFont(tick_font());
  for (int row = 0; row < grid_.rows; ++row)
    for (int column = 0; column < grid_.columns; ++column) {
      const float value = grid_.values[static_cast<std::size_t>(row * grid_.columns + column)];
      const QRgb ground = grid_.scale.color(value, style);
      painter.setPen(figure::to_color(
          figure::ink_on({static_cast<std::uint8_t>(qRed(ground)), static_cast<std::uint8_t>(qGreen(ground)),
                          static_cast<std::uint8_t>(qBlue(ground))})));
      painter.drawText(cell(row, column), Qt::AlignCenter, grid_.number(value));
    }
}

void HeadGridView::paint_names(QPainter& painter, const Layout& layout) {
  const figure::Style& style = current_style();
  painter.setFont(tick_font());
  painter.setPen(style.muted);
  const QRectF& cells = layout.cells;
  painter.drawText(QRectF(margin, cells.top() - layout.line - 2, layout.names_width, layout.line),
                   Qt::AlignRight | Qt::AlignVCenter, grid_.row_label);
  const auto step = [](double each, double needed) { return std::max(1, static_cast<int>(std::ceil(needed / each))); };
  const int row_step = step(cells.height() / grid_.rows, style.tick_size * 1.15);
  for (int row = 0; row < grid_.rows; row += row_step) {
    const QRectF place = cell(row, 0);
    painter.drawText(QRectF(margin, place.center().y() - layout.line / 2, layout.names_width, layout.line),
                     Qt::AlignRight | Qt::AlignVCenter, grid_.row_name ? grid_.row_name(row) : QString::number(row));
  }
  const int column_step = step(cells.width() / grid_.columns, width_of(QString::number(grid_.columns)) + margin);
  for (int column = 0; column < grid_.columns; column += column_step) {
    const QRectF place = cell(0, column);
    painter.drawText(QRectF(place.center().x() - 40, cells.bottom() + 2, 80, layout.line), Qt::AlignCenter,
                     QString::number(column));
  }
  painter.drawText(QRectF(cells.left(), cells.bottom() + layout.line, std::max(cells.width(), 100.0), layout.line),
                   Qt::AlignCenter, grid_.column_label);
}

void HeadGridView::paint_marks(QPainter& painter) {
  const figure::Style& style = current_style();
  painter.setBrush(Qt::NoBrush);
  const auto outline = [&](const QRectF& place, const QColor& color, double width) {
    painter.setPen(QPen(style.background, width + 2));
    painter.drawRect(place);
    painter.setPen(QPen(color, width));
    painter.drawRect(place);
  };
  for (int column = 0; column < grid_.columns && selected_row_ >= 0 && selected_row_ < grid_.rows; ++column)
    if (std::find(selected_columns_.begin(), selected_columns_.end(), column) != selected_columns_.end())
      outline(cell(selected_row_, column).adjusted(0.5, 0.5, -0.5, -0.5), run_color_a(), 2);
  if (selected_columns_.empty() && selected_row_ >= 0 && selected_row_ < grid_.rows)
    outline(cell(selected_row_, 0).united(cell(selected_row_, grid_.columns - 1)).adjusted(0.5, 0.5, -0.5, -0.5),
            run_color_a(), 2);
  if (grid_.worst) {
    // A corner cut off: seen whatever the colour of the cell, and with an outline around it.
    const QRectF place = cell(grid_.worst->row, grid_.worst->column);
    const double size = std::min({12.0, place.width() * 0.6, place.height() * 0.6});
    const QPolygonF corner({place.topRight() + QPointF(-size - 1, 1), place.topRight() + QPointF(-1, 1),
                            place.topRight() + QPointF(-1, size + 1)});
    painter.setRenderHint(QPainter::Antialiasing);
    painter.setPen(QPen(style.background, 1.5));
    painter.setBrush(style.ink);
    painter.drawPolygon(corner);
    painter.setRenderHint(QPainter::Antialiasing, false);
    painter.setBrush(Qt::NoBrush);
  }
  if (focus_ && focus_->row < grid_.rows && focus_->column < grid_.columns)
    outline(cell(focus_->row, focus_->column).adjusted(1.5, 1.5, -1.5, -1.5), style.ink, 1);
  if (!hasFocus()) return;
  painter.setPen(QPen(run_color_a(), 1));
  painter.drawRect(rect().adjusted(0, 0, -1, -1));
}

// ---- mouse and keys ----------------------------------------------------------------------------------------------------

void HeadGridView::mouseMoveEvent(QMouseEvent* event) {
  const auto place = cell_at(event->position());
  if (place == focus_) return;
  set_focus_cell(place);
  emit hovered(place ? place->row : -1, place ? place->column : -1);
}

void HeadGridView::leaveEvent(QEvent* /*event*/) {
  if (!focus_) return;
  set_focus_cell(std::nullopt);
  emit hovered(-1, -1);
}

void HeadGridView::mousePressEvent(QMouseEvent* event) {
  if (event->button() != Qt::LeftButton) return event->ignore();
  if (const auto place = cell_at(event->position())) return emit clicked(place->row, place->column, event->modifiers());
  const QRectF cells = lay_out().cells;
  if (event->position().x() >= cells.left()) return;
  if (const auto beside = cell_at({cells.left() + 1, event->position().y()})) emit row_clicked(beside->row);
}

void HeadGridView::keyPressEvent(QKeyEvent* event) {
  if ((event->modifiers() & (Qt::AltModifier | Qt::ControlModifier)) != 0 || grid_.rows == 0) return event->ignore();
  HeadGrid::Place at = focus_.value_or(
      HeadGrid::Place{std::max(0, selected_row_), selected_columns_.empty() ? 0 : selected_columns_.front()});
  switch (event->key()) {
    case Qt::Key_Left: --at.column; break;
    case Qt::Key_Right: ++at.column; break;
    case Qt::Key_Up: --at.row; break;
    case Qt::Key_Down: ++at.row; break;
    case Qt::Key_Return:
    case Qt::Key_Enter:
    case Qt::Key_Space: return emit clicked(at.row, at.column, event->modifiers());
    default: return QWidget::keyPressEvent(event);
  }
  at.row = std::clamp(at.row, 0, grid_.rows - 1);
  at.column = std::clamp(at.column, 0, grid_.columns - 1);
  set_focus_cell(at);
  emit hovered(at.row, at.column);
}

void HeadGridView::focusInEvent(QFocusEvent* event) {
  QWidget::focusInEvent(event);
  update();
}

void HeadGridView::focusOutEvent(QFocusEvent* event) {
  QWidget::focusOutEvent(event);
  update();
}

}  // namespace kvreplay::gui
