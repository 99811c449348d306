// A figure drawn where it stands, as tall as it needs to be at the widget's width: what a panel shows is what it exports.
#pragma once

#include <QWidget>
#include <memory>

#include "gui/figure/figure.h"

namespace kvreplay::gui {

class FigureView final : public QWidget {
 public:
  explicit FigureView(QWidget* parent = nullptr);
  // Null: nothing. heading: title and subtitle, too.
  void show(std::shared_ptr<const figure::Figure> figure, bool heading = false);
  // The figure fills the widget instead of asking for its height.
  void set_filling(bool filling) { filling_ = filling; }

  QSize sizeHint() const override;
  int heightForWidth(int width) const override;

 protected:
  void paintEvent(QPaintEvent* event) override;

 private:
  double height_at(double width) const;

  std::shared_ptr<const figure::Figure> figure_;
  bool heading_ = false, filling_ = false;
};

}  // namespace kvreplay::gui
