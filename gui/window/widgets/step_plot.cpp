#include "gui/window/widgets/step_plot.h"

#include <QMouseEvent>
#include <QPainter>
#include <QPainterPath>
#include <cmath>

#include "gui/window/theme.h"

namespace kvreplay::gui {
namespace {

constexpr double left_margin = 58, right_margin = 10, top_margin = 22, bottom_margin = 36;
constexpr double share_of_counts = 0.34, between = 26;  // with the name of the lower plot

}  // namespace

StepPlot::StepPlot(QWidget* parent) : QWidget(parent) {
  setMouseTracking(true);
  setFocusPolicy(Qt::StrongFocus);
}

void StepPlot::show_series(std::vector<Series> series, int steps, const QString& count_label, const QString& value_label) {
  series_ = std::move(series);
  if (steps != steps_) visible_ = {-0.5, steps + 0.5};
  steps_ = steps;
  count_label_ = count_label;
  value_label_ = value_label;
  update();
}

void StepPlot::show_step(int step) {
  step_ = step;
  update();
}

void StepPlot::show_visible(std::optional<Interval> range) {
  visible_ = range.value_or(Interval{-0.5, steps_ + 0.5});
  update();
}

void StepPlot::show_hover(int step) {
  if (step == hover_) return;
  hover_ = step;
  update();
}

// ---- geometry -----------------------------------------------------------------------------------------------------------

QRectF StepPlot::plot() const {
  return {left_margin, top_margin, std::max(10.0, width() - left_margin - right_margin),
          std::max(10.0, height() - top_margin - bottom_margin)};
}

double StepPlot::x_of(double step) const {
  const QRectF area = plot();
  return area.left() + (step - visible_.low) / std::max(1e-9, visible_.high - visible_.low) * area.width();
}

int StepPlot::step_at(double x) const {
  const QRectF area = plot();
  const double step = visible_.low + (x - area.left()) / area.width() * (visible_.high - visible_.low);
  return std::clamp(static_cast<int>(std::lround(step)), 0, steps_);
}

// ---- drawing
// ----------------------------------------------------------------------------------------------------------------

void StepPlot::paintEvent(QPaintEvent*) {
  QPainter painter(this);
  const figure::Style& style = current_style();
  painter.fillRect(rect(), style.background);
  if (series_.empty()) return;
  painter.setRenderHint(QPainter::Antialiasing);
  const QRectF area = plot();
  const QRectF counts(area.left(), area.top(), area.width(), area.height() * share_of_counts);
  const QRectF values(area.left(), counts.bottom() + between, area.width(), area.bottom() - counts.bottom() - between);
  draw_counts(painter, counts);
  draw_values(painter, values);
  draw_steps(painter, area);
  const auto line_at = [&](int step, const QColor& color, double width) {
    const double x = std::round(x_of(step)) + 0.5;
    if (x < area.left() - 1 || x > area.right() + 1) return;
    painter.setPen(QPen(color, width));
    for (const QRectF& part : {counts, values}) painter.drawLine(QPointF(x, part.top()), QPointF(x, part.bottom()));
  };
  if (hover_ >= 0) line_at(hover_, style.muted, 1);
  line_at(step_, style.ink, 2);
  if (hasFocus()) {
    painter.setPen(QPen(style.muted, 1, Qt::DotLine));
    painter.setBrush(Qt::NoBrush);
    painter.drawRect(QRectF(rect()).adjusted(1.5, 1.5, -1.5, -1.5));
  }
}

void StepPlot::draw_y_axis(QPainter& painter, const QRectF& area, const std::vector<figure::Tick>& ticks, double low,
                           double high, const QString& label) const {
  const figure::Style& style = current_style();
  painter.setFont(style.font(style.tick_size));
  for (const figure::Tick& tick : ticks) {
    const double y = area.bottom() - (tick.value - low) / std::max(1e-300, high - low) * area.height();
    if (y < area.top() - 1) continue;
    painter.setPen(QPen(style.grid, 1));
    painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y));
    painter.setPen(style.muted);
    painter.drawText(QRectF(0, y - 9, area.left() - 6, 18), Qt::AlignRight | Qt::AlignVCenter,
                     QString::fromStdString(tick.label));
  }
  painter.setPen(style.ink);
  painter.drawText(QRectF(area.left(), area.top() - 20, area.width(), 16), Qt::AlignLeft | Qt::AlignVCenter, label);
}

void StepPlot::draw_counts(QPainter& painter, const QRectF& area) const {
  // The eviction when the prompt ends is larger by far than those of single steps: it is cut off and labelled.
  std::int64_t most = 0, prompt = 0;
  for (const Series& series : series_)
    for (std::size_t step = 0; step < series.count.size(); ++step)
      (step == 0 ? prompt : most) = std::max(step == 0 ? prompt : most, series.count[step]);
  const bool cut = most > 0 && prompt > 2 * most;
  const double high = std::max<double>(1, static_cast<double>(cut ? most * 1.25 : std::max(most, prompt)));
  draw_y_axis(painter, area, figure::linear_ticks(0, high, 3, true), 0, high, count_label_);
  const double pixels = area.width() / std::max(1.0, visible_.high - visible_.low);
  const double bar = std::clamp(pixels * 0.8 / static_cast<double>(series_.size()), 1.0, 14.0);
  painter.save();
  painter.setClipRect(area.adjusted(-2, -2, 2, 2));
  const int first = std::max(0, static_cast<int>(std::floor(visible_.low))),
            last = std::min(steps_, static_cast<int>(std::ceil(visible_.high)));
  for (std::size_t s = 0; s < series_.size(); ++s) {
    const Series& series = series_[s];
    const double offset = (static_cast<double>(s) - static_cast<double>(series_.size()) / 2) * bar;
    painter.setPen(Qt::NoPen);
    painter.setBrush(series.dashed ? QBrush(series.color, Qt::Dense4Pattern) : QBrush(series.color));
    for (int step = first; step <= last && step < static_cast<int>(series.count.size()); ++step) {
      const std::int64_t count = series.count[static_cast<std::size_t>(step)];
      if (count == 0) continue;
      const double share = std::min(1.0, static_cast<double>(count) / high);
      const QRectF box(x_of(step) + offset, area.bottom() - share * area.height(), bar, share * area.height());
      painter.drawRect(box);
    }
  }
  painter.restore();
  if (!cut || visible_.low > 0) return;
  // What was cut off, in numbers beside the bars.
  QStringList numbers;
  for (const Series& series : series_)
    numbers << series.name + " " + QString::fromStdString(figure::number_label(static_cast<double>(series.count[0]), 9));
  painter.setPen(current_style().muted);
  painter.drawText(QRectF(x_of(0) + bar + 6, area.top() + 10, area.width(), 16), Qt::AlignLeft | Qt::AlignVCenter,
                   "when the prompt ended: " + numbers.join(", "));
}

void StepPlot::draw_values(QPainter& painter, const QRectF& area) const {
  double high = 0;
  for (const Series& series : series_)
    for (const double value : series.value)
      if (std::isfinite(value)) high = std::max(high, value);
  if (high <= 0) high = 1;
  high *= 1.05;
  draw_y_axis(painter, area, figure::linear_ticks(0, high, 4), 0, high, value_label_);
  painter.save();
  painter.setClipRect(area.adjusted(-4, -4, 4, 4));
  for (const Series& series : series_) {
    QPen pen(series.color, current_style().line_width);
    if (series.dashed) pen.setDashPattern({4, 2.5});
    painter.setPen(pen);
    painter.setBrush(Qt::NoBrush);
    QPainterPath path;
    bool open = false;
    double column = -1e9, lowest = 0, highest = 0;
    const auto end_column = [&] {
      if (highest > lowest + 0.5) {
        path.moveTo(column, lowest);
        path.lineTo(column, highest);
      }
    };
    for (std::size_t step = 1; step < series.value.size(); ++step) {
      const double value = series.value[step];
      if (!std::isfinite(value)) {
        open = false;
        continue;
      }
      const double x = x_of(static_cast<double>(step)), y = area.bottom() - value / high * area.height();
      // Within one pixel only the extremes are drawn.
      if (open && std::floor(x) == std::floor(column)) {
        lowest = std::min(lowest, y);
        highest = std::max(highest, y);
        continue;
      }
      end_column();
      if (open)
        path.lineTo(x, y);
      else
        path.moveTo(x, y);
      open = true;
      column = x;
      lowest = highest = y;
    }
    end_column();
    painter.drawPath(path);
    if (area.width() / std::max(1.0, visible_.high - visible_.low) < 7) continue;
    painter.setPen(Qt::NoPen);
    painter.setBrush(series.color);
    for (std::size_t step = 1; step < series.value.size(); ++step)
      if (std::isfinite(series.value[step]))
        painter.drawEllipse(
            QPointF(x_of(static_cast<double>(step)), area.bottom() - series.value[step] / high * area.height()), 2.5, 2.5);
  }
  painter.restore();
}

void StepPlot::draw_steps(QPainter& painter, const QRectF& area) const {
  const figure::Style& style = current_style();
  painter.setFont(style.font(style.tick_size));
  painter.setPen(style.muted);
  double reached = -1e9;
  const auto label = [&](double step, const QString& text) {
    const double x = x_of(step), width = painter.fontMetrics().horizontalAdvance(text);
    const double left = std::clamp(x - width / 2, 0.0, this->width() - width);
    if (left < reached + 8 || x < area.left() - 1 || x > area.right() + 1) return;
    painter.drawText(QPointF(left, area.bottom() + 14), text);
    reached = left + width;
  };
  for (const figure::Tick& tick : figure::linear_ticks(std::max(0.0, visible_.low), std::max(2.0, visible_.high), 10, true))
    label(tick.value, QString::fromStdString(tick.label));
  painter.setPen(style.ink);
  painter.drawText(QRectF(area.left(), area.bottom() + 16, area.width(), 16), Qt::AlignCenter,
                   "decode step (0: when the prompt ended)");
}

// ---- mouse and keys
// -----------------------------------------------------------------------------------------------------------

// Before the answer comes back: the next key counts from here.
void StepPlot::choose(int step) {
  step_ = std::clamp(step, 0, steps_);
  update();
  emit step_chosen(step_);
}

void StepPlot::mousePressEvent(QMouseEvent* event) {
  if (event->button() == Qt::LeftButton) choose(step_at(event->position().x()));
}

void StepPlot::mouseMoveEvent(QMouseEvent* event) {
  const int step = step_at(event->position().x());
  if (event->buttons() & Qt::LeftButton)
    choose(step);
  else
    emit hovered(step);
}

void StepPlot::mouseDoubleClickEvent(QMouseEvent*) { emit zoom_reset(); }
void StepPlot::leaveEvent(QEvent*) { emit hovered(-1); }

void StepPlot::wheelEvent(QWheelEvent* event) {
  const QRectF area = plot();
  const double place = std::clamp((event->position().x() - area.left()) / area.width(), 0.0, 1.0);
  const double span = visible_.high - visible_.low;
  const double wanted = std::clamp(span * std::pow(0.85, event->angleDelta().y() / 120.0), 5.0, steps_ + 1.0);
  double low = visible_.low + (span - wanted) * place + (event->modifiers() & Qt::ShiftModifier ? wanted * 0.1 : 0);
  low = std::clamp(low, -0.5, steps_ + 0.5 - wanted);
  emit zoomed(low, low + wanted);
  event->accept();
}

void StepPlot::keyPressEvent(QKeyEvent* event) {
  switch (event->key()) {
    case Qt::Key_Left: choose(step_ - 1); break;
    case Qt::Key_Right: choose(step_ + 1); break;
    case Qt::Key_Home: choose(0); break;
    case Qt::Key_End: choose(steps_); break;
    default: QWidget::keyPressEvent(event);
  }
}

}  // namespace kvreplay::gui
