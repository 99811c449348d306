// Numbers as colours behind text: the weakest end of a scale is the background itself, so that a page stays readable, and
// the lightness changes evenly towards the other.
#pragma once

#include <QColor>
#include <QString>
#include <QWidget>
#include <vector>

#include "gui/figure/canvas.h"

namespace kvreplay::gui {

struct ValueScale {
  QString label;  // with its unit
  double low = 0, high = 1;
  bool difference = false;      // from -high to high, 0 is the background; else from low
  bool logarithmic = false;     // from low, which then is above 0, or the smallest difference that shows
  QString low_name, high_name;  // in place of the numbers at the ends, where given

  // In [-1, 1] or [0, 1]; NaN stays.
  double place(double value) const;
  // Not valid for NaN: no colour.
  QColor color(double value, const figure::Style& style) const;
};

// low and high from the values; NaN are left out. Logarithmic ones span at most `decades`.
ValueScale fitted_scale(ValueScale scale, const std::vector<float>& values, double decades);

// The scale as a strip of colour with its ends, and samples of what else stands in the text.
class ScaleKey final : public QWidget {
 public:
  // How kept and evicted look: one bar a run.
  struct Mark {
    QString text;
    QColor color;
    bool struck = false, above = false;  // struck out; a line above in place of one below
  };
  explicit ScaleKey(QWidget* parent = nullptr);
  void show(const ValueScale& scale, std::vector<Mark> marks);
  QSize sizeHint() const override;
  int heightForWidth(int width) const override;

 protected:
  void paintEvent(QPaintEvent* event) override;

 private:
  int lay_out(QPainter* painter, int width) const;

  ValueScale scale_;
  std::vector<Mark> marks_;
};

}  // namespace kvreplay::gui
