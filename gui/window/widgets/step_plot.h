// Bars and lines over decode steps with a cursor that is dragged: what the time line draws.
//
// Above, bars: a count for each step. Below, lines: a value for each step. One of each for every series. Many steps to a
// pixel are drawn as their largest bar and the range of their values.
#pragma once

#include <QWidget>
#include <optional>
#include <string>
#include <vector>

#include "gui/figure/axis.h"
#include "gui/model/state.h"

namespace kvreplay::gui {

class StepPlot final : public QWidget {
  Q_OBJECT

 public:
  struct Series {
    QString name;
    QColor color;
    bool dashed = false;
    std::vector<std::int64_t> count;  // [S + 1]
    std::vector<double> value;        // [S + 1], NaN: none
  };

  explicit StepPlot(QWidget* parent);
  void show_series(std::vector<Series> series, int steps, const QString& count_label, const QString& value_label);
  void show_step(int step);                          // the cursor
  void show_visible(std::optional<Interval> range);  // absent: all
  void show_hover(int step);                         // -1: none

  QSize sizeHint() const override { return {600, 220}; }
  QSize minimumSizeHint() const override { return {200, 120}; }

 signals:
  void step_chosen(int step);
  void hovered(int step);  // -1: none
  void zoomed(double low, double high);
  void zoom_reset();

 protected:
  void paintEvent(QPaintEvent* event) override;
  void mousePressEvent(QMouseEvent* event) override;
  void mouseMoveEvent(QMouseEvent* event) override;
  void mouseDoubleClickEvent(QMouseEvent* event) override;
  void leaveEvent(QEvent* event) override;
  void wheelEvent(QWheelEvent* event) override;
  void keyPressEvent(QKeyEvent* event) override;

 private:
  void choose(int step);
  QRectF plot() const;
  double x_of(double step) const;
  int step_at(double x) const;
  void draw_counts(QPainter& painter, const QRectF& area) const;
  void draw_values(QPainter& painter, const QRectF& area) const;
  void draw_steps(QPainter& painter, const QRectF& area) const;
  void draw_y_axis(QPainter& painter, const QRectF& area, const std::vector<figure::Tick>& ticks, double low, double high,
                   const QString& label) const;

  std::vector<Series> series_;
  int steps_ = 0, step_ = 0, hover_ = -1;
  Interval visible_;
  QString count_label_, value_label_;
};

}  // namespace kvreplay::gui
