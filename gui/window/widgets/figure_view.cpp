#include "gui/window/widgets/figure_view.h"

#include <QPainter>
#include <cmath>

#include "gui/figure/renderer.h"
#include "gui/window/theme.h"

namespace kvreplay::gui {
namespace {
constexpr double margin = 4;
}

FigureView::FigureView(QWidget* parent) : QWidget(parent) {
  QSizePolicy policy(QSizePolicy::Expanding, QSizePolicy::Preferred);
  policy.setHeightForWidth(true);
  setSizePolicy(policy);
}

void FigureView::show(std::shared_ptr<const figure::Figure> figure, bool heading) {
  figure_ = std::move(figure);
  heading_ = heading;
  updateGeometry();
  update();
}

double FigureView::height_at(double width) const {
  if (figure_ == nullptr || width < 60) return 0;
  const figure::Style& style = current_style();
  double height = figure::renderer_of(*figure_).height(*figure_, style, width - 2 * margin) + 3 * margin;
  if (heading_) height += figure::draw_heading(nullptr, *figure_, style, QRectF(0, 0, width - 2 * margin, 0));
  return std::ceil(height);
}

QSize FigureView::sizeHint() const {
  const int shown = std::max(240, width());
  return {shown, filling_ ? 220 : heightForWidth(shown)};
}

int FigureView::heightForWidth(int width) const { return filling_ ? -1 : static_cast<int>(height_at(width)); }

void FigureView::paintEvent(QPaintEvent*) {
  if (figure_ == nullptr || width() < 60) return;
  QPainter painter(this);
  painter.setRenderHint(QPainter::Antialiasing);
  const QRectF area = QRectF(rect()).adjusted(margin, margin, -margin, -margin);
  figure::paint_figure(painter, area, *figure_, current_style(), heading_);
}

}  // namespace kvreplay::gui
