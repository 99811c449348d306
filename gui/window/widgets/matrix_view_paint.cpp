// The drawing of a MatrixView. One image for the matrix, made anew only when what it shows changes; lines and text over it.
#include <QPainter>
#include <algorithm>
#include <cmath>
#include <cstring>

#include "gui/figure/axis.h"
#include "gui/window/theme.h"
#include "gui/window/widgets/matrix_view.h"

namespace kvreplay::gui {
namespace {

constexpr int margin = 8, strip_height = 8, selection_height = 5;
constexpr double narrowest_text = 30;  // of a column whose text is written below it

double span(const Interval& interval) { return interval.high - interval.low; }

QFont tick_font() { return current_style().font(current_style().tick_size); }

int text_width(const QString& text) {
  return static_cast<int>(std::ceil(QFontMetricsF(tick_font()).horizontalAdvance(text)));
}

// The pixels [first, last) of `count` whose middles lie in [from, to) of the visible interval.
std::pair<int, int> pixels_of(double from, double to, const Interval& visible, int count) {
  const double unit = count / span(visible);
  const auto at = [&](double place) {
    return std::clamp(static_cast<int>(std::ceil((place - visible.low) * unit - 0.5)), 0, count);
  };
  return {at(from), at(to)};
}

// Draws what is visible of a layer into `values` [height, width].
void render_layer(const MatrixLayer& layer, const Interval& columns, const Interval& rows, int width, int height,
                  std::vector<float>& values) {
  const auto across = static_cast<double>(layer.pyramid->columns()) * layer.column_size;
  const auto down = static_cast<double>(layer.pyramid->rows()) * layer.row_size;
  const auto [left, right] = pixels_of(layer.left, layer.left + across, columns, width);
  const auto [top, bottom] = pixels_of(layer.top, layer.top + down, rows, height);
  if (left >= right || top >= bottom) return;
  const double column = span(columns) / width, row = span(rows) / height;
  std::vector<float> part;
  const bool whole = left == 0 && right == width && top == 0 && bottom == height;
  if (!whole) part.resize(static_cast<std::size_t>((right - left) * (bottom - top)));
  layer.pyramid->render((columns.low + left * column - layer.left) / layer.column_size,
                        (columns.low + right * column - layer.left) / layer.column_size,
                        (rows.low + top * row - layer.top) / layer.row_size,
                        (rows.low + bottom * row - layer.top) / layer.row_size, right - left, bottom - top,
                        whole ? values.data() : part.data());
  for (int y = top; !whole && y < bottom; ++y)
    std::copy_n(part.data() + static_cast<std::ptrdiff_t>(y - top) * (right - left), right - left,
                values.data() + static_cast<std::ptrdiff_t>(y) * width + left);
}

QImage colored(const std::vector<float>& values, int width, int height, const ColorScale& scale) {
  QImage image(width, height, QImage::Format_RGB32);
  const ColorTable table(scale, current_style());
  for (int y = 0; y < height; ++y) {
    const float* line = values.data() + static_cast<std::ptrdiff_t>(y) * width;
    auto* out = reinterpret_cast<QRgb*>(image.scanLine(y));
    // Rows are many pixels high: most lines are the one above.
    if (y > 0 && std::memcmp(line, line - width, sizeof(float) * static_cast<std::size_t>(width)) == 0)
      std::memcpy(out, image.constScanLine(y - 1), sizeof(QRgb) * static_cast<std::size_t>(width));
    else
      table.colors(line, width, out);
  }
  return image;
}

// Rows (or groups) that are named: every, every second, fifth, tenth, ... so that names have room.
std::int64_t name_step(double pixels_each, double needed) {
  std::int64_t step = 1;
  for (int i = 0; step * pixels_each < needed; ++i) step = step * (i % 3 == 1 ? 5 : 2) / (i % 3 == 1 ? 2 : 1);
  return step;
}

}  // namespace

struct MatrixView::Layout {
  MatrixGeometry geometry;
  int key_top = 0, marks_top = 0, strip_top = 0, selection_top = 0;
  int names_width = 0, line = 0;
};

MatrixView::Layout MatrixView::lay_out() const {
  Layout layout;
  const figure::Style& style = current_style();
  const int width = viewport()->width(), height = viewport()->height();
  layout.line = static_cast<int>(figure::line_height(tick_font()));
  int widest = text_width(content_.row_label);
  if (!content_.strip_label.isEmpty() && content_.strip) widest = std::max(widest, text_width(content_.strip_label));
  const auto groups = static_cast<std::int64_t>(content_.rows) / std::max<std::int64_t>(1, content_.row_group);
  if (content_.row_name)
    for (std::int64_t i = 0; i < groups; i += std::max<std::int64_t>(1, groups / 64))
      widest = std::max(widest, text_width(content_.row_name(i)));
  if (content_.row_name && groups > 0) widest = std::max(widest, text_width(content_.row_name(groups - 1)));
  layout.names_width = std::min(widest, width * 2 / 5) + margin;
  layout.key_top = margin / 2;
  int y = layout.key_top + paint_key(content_.scale, style, nullptr, 0, 0, width - 2 * margin) + margin / 2;
  layout.marks_top = y;
  y += layout.line + 4;
  layout.strip_top = y;
  if (content_.strip) y += strip_height + 3;
  layout.selection_top = y;
  y += selection_height + 1;
  const int left = margin + layout.names_width, below = 2 * layout.line + margin;
  layout.geometry.map = QRect(left, y, std::max(16, width - left - margin - 6), std::max(16, height - y - below));
  layout.geometry.columns = columns_;
  layout.geometry.rows = rows_;
  return layout;
}

MatrixGeometry MatrixView::geometry_now() const { return lay_out().geometry; }

void MatrixView::render(const Layout& layout) {
  const double ratio = devicePixelRatioF();
  const QSize size(static_cast<int>(std::lround(layout.geometry.map.width() * ratio)),
                   static_cast<int>(std::lround(layout.geometry.map.height() * ratio)));
  if (!image_is_old_ && image_.size() == size) return;
  image_is_old_ = false;
  values_.assign(static_cast<std::size_t>(size.width()) * static_cast<std::size_t>(size.height()),
                 std::numeric_limits<float>::quiet_NaN());
  for (const MatrixLayer& layer : content_.layers)
    render_layer(layer, columns_, rows_, size.width(), size.height(), values_);
  image_ = colored(values_, size.width(), size.height(), content_.scale);
  if (!content_.strip) return;
  std::vector<float> strip(static_cast<std::size_t>(size.width()), std::numeric_limits<float>::quiet_NaN());
  render_layer(*content_.strip, columns_, {0, 1}, size.width(), 1, strip);
  strip_ = colored(strip, size.width(), 1, content_.strip_scale);
}

void MatrixView::paintEvent(QPaintEvent* /*event*/) {
  const Layout layout = lay_out();
  const figure::Style& style = current_style();
  QPainter painter(viewport());
  painter.fillRect(viewport()->rect(), style.background);
  if (content_.columns <= 0 || content_.rows <= 0) return;
  render(layout);
  paint_key(content_.scale, style, &painter, margin, layout.key_top, viewport()->width() - 2 * margin);
  paint_map(painter, layout);
  paint_rows_axis(painter, layout);
  paint_columns_axis(painter, layout);
  paint_marks(painter, layout);
  paint_selection(painter, layout);
  paint_focus(painter, layout);
  paint_gesture(painter, layout);
}

void MatrixView::paint_map(QPainter& painter, const Layout& layout) {
  const MatrixGeometry& geometry = layout.geometry;
  const figure::Style& style = current_style();
  painter.drawImage(geometry.map, image_);
  if (content_.strip) {
    painter.drawImage(QRect(geometry.map.left(), layout.strip_top, geometry.map.width(), strip_height), strip_);
    painter.setFont(tick_font());
    painter.setPen(style.muted);
    painter.drawText(QRect(0, layout.strip_top - 5, geometry.map.left() - margin, strip_height + 10),
                     Qt::AlignRight | Qt::AlignVCenter, content_.strip_label);
  }
  paint_grid(painter, geometry);
  painter.setBrush(Qt::NoBrush);
  painter.setPen(QPen(hasFocus() ? run_color_a() : style.grid, 1));
  painter.drawRect(geometry.map.adjusted(-1, -1, 0, 0));
}

// Cells are set apart where there is room for it, groups of rows always.
void MatrixView::paint_grid(QPainter& painter, const MatrixGeometry& geometry) {
  const figure::Style& style = current_style();
  const double row_height = geometry.map.height() / span(rows_), column_width = geometry.map.width() / span(columns_);
  QColor soft = style.background;
  soft.setAlpha(150);
  const auto horizontal = [&](double row, const QColor& color) {
    const int y = static_cast<int>(std::lround(geometry.y_of(row)));
    painter.fillRect(geometry.map.left(), y, geometry.map.width(), 1, color);
  };
  const auto each = [](const Interval& visible, std::int64_t step, const auto& draw) {
    for (auto at = (static_cast<std::int64_t>(visible.low) / step + 1) * step; static_cast<double>(at) < visible.high;
         at += step)
      draw(static_cast<double>(at));
  };
  if (row_height >= 5 && !content_.row_numbers) each(rows_, 1, [&](double row) { horizontal(row, soft); });
  if (content_.row_group > 1 && row_height * static_cast<double>(content_.row_group) >= 3)
    each(rows_, content_.row_group, [&](double row) { horizontal(row, style.background); });
  if (column_width >= 12)
    each(columns_, 1, [&](double column) {
      painter.fillRect(static_cast<int>(std::lround(geometry.x_of(column))), geometry.map.top(), 1, geometry.map.height(),
                       soft);
    });
  // Light and dark dashes in turn: seen on kept and evicted alike.
  const auto dashed = [&](const QLineF& line) {
    painter.setPen(QPen(style.background, 1));
    painter.drawLine(line);
    painter.setPen(QPen(style.ink, 1, Qt::DashLine));
    painter.drawLine(line);
  };
  for (const double column : content_.column_lines)
    if (column > columns_.low && column < columns_.high) {
      const double x = std::lround(geometry.x_of(column)) + 0.5;
      dashed({x, geometry.map.top() - selection_height - 4.0, x, geometry.map.bottom() + 4.0});
    }
  for (const double row : content_.row_lines)
    if (row > rows_.low && row < rows_.high) {
      const double y = std::lround(geometry.y_of(row)) + 0.5;
      dashed({geometry.map.left() - 4.0, y, static_cast<double>(geometry.map.right()), y});
    }
}

void MatrixView::paint_marks(QPainter& painter, const Layout& layout) {
  const MatrixGeometry& geometry = layout.geometry;
  const figure::Style& style = current_style();
  painter.setFont(tick_font());
  painter.setPen(style.muted);
  painter.drawText(QRect(0, layout.marks_top, geometry.map.left() - margin, layout.line), Qt::AlignRight | Qt::AlignVCenter,
                   content_.row_label);
  double free_from = geometry.map.left();
  const int y = layout.marks_top + layout.line;
  for (const MatrixMark& mark : content_.marks) {
    if (mark.end <= columns_.low || mark.begin >= columns_.high) continue;
    const double from = std::max<double>(geometry.map.left(), geometry.x_of(mark.begin));
    const double to = std::min<double>(geometry.map.right() + 1, std::max(from + 2, geometry.x_of(mark.end)));
    painter.fillRect(QRectF(from, y, to - from, 2.5), style.ink);
    const double width = text_width(mark.label);
    const double x = std::clamp((from + to - width) / 2, static_cast<double>(geometry.map.left()),
                                std::max<double>(geometry.map.left(), geometry.map.right() - width));
    if (x < free_from) continue;  // a bracket without a name, where names would run into each other
    painter.setPen(style.ink);
    painter.drawText(QRectF(x, layout.marks_top, width + 2, layout.line), Qt::AlignLeft | Qt::AlignVCenter, mark.label);
    free_from = x + width + margin;
  }
}

void MatrixView::paint_columns_axis(QPainter& painter, const Layout& layout) {
  const MatrixGeometry& geometry = layout.geometry;
  const figure::Style& style = current_style();
  const int top = geometry.map.bottom() + 1;
  painter.setFont(tick_font());
  const double column_width = geometry.map.width() / span(columns_);
  double free_from = -1e9;
  const int count = std::max(2, geometry.map.width() / 90);
  for (const auto& tick : figure::linear_ticks(std::max(0.0, columns_.low - 0.5), columns_.high - 0.5, count, true)) {
    const double x = geometry.x_of(tick.value + 0.5);
    if (x < geometry.map.left() || x > geometry.map.right() + 1) continue;
    const auto column = static_cast<std::int64_t>(tick.value);
    const QString name =
        content_.column_name ? content_.column_name(column) : QString::fromStdString(figure::number_label(tick.value, 9));
    painter.fillRect(QRectF(std::floor(x), top, 1, 4), style.muted);
    const double width = text_width(name);
    const double at = std::clamp(x - width / 2, static_cast<double>(geometry.map.left()) - 12,
                                 std::max<double>(0, geometry.map.right() + margin + 4 - width));
    if (at < free_from) continue;
    painter.setPen(style.muted);
    painter.drawText(QRectF(at, top + 4, width + 2, layout.line), Qt::AlignLeft | Qt::AlignVCenter, name);
    free_from = at + width + margin;
  }
  const int second = top + 4 + layout.line - 2;
  if (content_.column_text && column_width >= narrowest_text) {
    const QFontMetrics metrics(tick_font());
    painter.setPen(style.ink);
    for (auto column = static_cast<std::int64_t>(columns_.low); static_cast<double>(column) < columns_.high; ++column) {
      const QRectF place(geometry.x_of(static_cast<double>(column)) + 1, second, column_width - 2, layout.line);
      if (place.center().x() < geometry.map.left() || place.center().x() > geometry.map.right()) continue;
      painter.drawText(place, Qt::AlignCenter,
                       metrics.elidedText(content_.column_text(column), Qt::ElideRight, static_cast<int>(place.width())));
    }
  } else {
    painter.setPen(style.muted);
    painter.drawText(QRect(geometry.map.left(), second, geometry.map.width(), layout.line), Qt::AlignCenter,
                     content_.column_label);
  }
}

QString MatrixView::row_text(std::int64_t row) const {
  return content_.row_name ? content_.row_name(row) : QString::number(row);
}

void MatrixView::paint_rows_axis(QPainter& painter, const Layout& layout) {
  const MatrixGeometry& geometry = layout.geometry;
  const figure::Style& style = current_style();
  painter.setFont(tick_font());
  painter.setPen(style.muted);
  const auto write = [&](double y, const QString& text) {
    const double half = layout.line / 2.0;
    const QRectF place(0, y - half, geometry.map.left() - margin + 2, layout.line);
    painter.drawText(place, Qt::AlignRight | Qt::AlignVCenter,
                     QFontMetrics(tick_font()).elidedText(text, Qt::ElideMiddle, static_cast<int>(place.width())));
  };
  if (content_.row_numbers) {
    const int count = std::max(2, geometry.map.height() / 36);
    const double low = content_.first_row + std::max(0.0, rows_.low - 0.5), high = content_.first_row + rows_.high - 0.5;
    for (const auto& tick : figure::linear_ticks(low, high, count, true)) {
      const double row = tick.value - content_.first_row, y = geometry.y_of(row + 0.5);
      painter.fillRect(QRectF(geometry.map.left() - 4, std::floor(y), 4, 1), style.muted);
      write(y, row_text(static_cast<std::int64_t>(row)));
    }
    return;
  }
  const auto group = static_cast<double>(std::max<std::int64_t>(1, content_.row_group));
  const double height = geometry.map.height() / span(rows_) * group;
  const std::int64_t step = name_step(height, style.tick_size * 1.15);
  for (auto i = static_cast<std::int64_t>(rows_.low / group); static_cast<double>(i) * group < rows_.high; ++i) {
    if (i % step != 0) continue;
    // The middle of what is visible of it.
    const double from = std::max(rows_.low, static_cast<double>(i) * group);
    const double to = std::min(rows_.high, static_cast<double>(i + 1) * group);
    const double y = geometry.y_of((from + to) / 2);
    if (y < geometry.map.top() || y > geometry.map.bottom()) continue;
    write(y, row_text(i));
  }
}

void MatrixView::paint_selection(QPainter& painter, const Layout& layout) {
  const MatrixGeometry& geometry = layout.geometry;
  const QColor accent = run_color_a();
  painter.save();
  painter.setClipRect(geometry.map.adjusted(-6, -selection_height - 1, 6, 0));
  for (const TokenRange& range : selected_columns_) {
    const auto begin = static_cast<double>(range.begin), end = static_cast<double>(range.end);
    if (end <= columns_.low || begin >= columns_.high) continue;
    const double from = std::floor(geometry.x_of(begin)), to = std::max(from + 2, std::ceil(geometry.x_of(end)));
    painter.fillRect(QRectF(from, layout.selection_top, to - from, selection_height), accent);
    QColor tint = accent;
    tint.setAlpha(to - from > 6 ? 46 : 110);
    painter.fillRect(QRectF(from, geometry.map.top(), to - from, geometry.map.height()), tint);
  }
  for (const std::int64_t row : selected_rows_) {
    const auto place = static_cast<double>(row);
    if (place + 1 <= rows_.low || place >= rows_.high) continue;
    const double from = geometry.y_of(place), to = std::max(from + 2, geometry.y_of(place + 1));
    for (const int x : {geometry.map.left() - 5, geometry.map.right() + 2})
      painter.fillRect(QRectF(x, from, 4, to - from), accent);
  }
  painter.restore();
}

void MatrixView::paint_focus(QPainter& painter, const Layout& layout) {
  const MatrixGeometry& geometry = layout.geometry;
  QColor ink = current_style().ink, halo = current_style().background;
  halo.setAlpha(160);
  const double column_width = geometry.map.width() / span(columns_), row_height = geometry.map.height() / span(rows_);
  painter.save();
  painter.setClipRect(geometry.map.adjusted(-1, -selection_height, 0, 0));
  painter.setBrush(Qt::NoBrush);
  const double x = geometry.x_of(static_cast<double>(focus_column_)), y = geometry.y_of(static_cast<double>(focus_row_));
  const auto outlined = [&](const QRectF& place) {
    painter.setPen(QPen(halo, 3));
    painter.drawRect(place);
    painter.setPen(QPen(ink, 1));
    painter.drawRect(place);
  };
  if (focus_column_ >= 0)
    outlined(QRectF(std::floor(x) - 0.5, geometry.map.top() - selection_height, std::max(2.0, std::round(column_width)),
                    geometry.map.height() + selection_height - 1));
  if (focus_column_ >= 0 && focus_row_ >= 0)
    outlined(QRectF(std::floor(x) - 0.5, std::floor(y) - 0.5, std::max(2.0, std::round(column_width)),
                    std::max(2.0, std::round(row_height))));
  painter.restore();
}

void MatrixView::paint_gesture(QPainter& painter, const Layout& layout) {
  if (gesture_ != Gesture::rectangle && gesture_ != Gesture::columns) return;
  QRect place = QRect(pressed_at_, gesture_at_).normalized();
  const QRect& map = layout.geometry.map;
  if (gesture_ == Gesture::columns || !content_.zoom_rows)
    place = QRect(place.left(), map.top(), place.width(), map.height());
  place &= map;
  QColor fill = run_color_a();
  fill.setAlpha(50);
  painter.fillRect(place, fill);
  painter.setPen(QPen(run_color_a(), 1, gesture_ == Gesture::rectangle ? Qt::DashLine : Qt::SolidLine));
  painter.setBrush(Qt::NoBrush);
  painter.drawRect(place);
}

}  // namespace kvreplay::gui
