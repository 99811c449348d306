#include "gui/window/widgets/readout.h"

#include <QFontMetrics>
#include <QPainter>

namespace kvreplay::gui {
namespace {

constexpr int margin = 8;

}  // namespace

Readout::Readout(const QString& object_name, QWidget* parent) : QWidget(parent) {
  setObjectName(object_name);
  setSizePolicy(QSizePolicy::Ignored, QSizePolicy::Fixed);
  setFixedHeight(2 * fontMetrics().lineSpacing() + margin);
}

void Readout::set_text(const QString& text) {
  if (text == text_) return;
  text_ = text;
  setAccessibleName(text);
  setToolTip(text);  // whole, where two lines are too few
  update();
}

void Readout::paintEvent(QPaintEvent* /*event*/) {
  QPainter painter(this);
  painter.drawText(rect().adjusted(margin, 1, -margin, 0), Qt::AlignLeft | Qt::AlignTop | Qt::TextWordWrap, text_);
}

}  // namespace kvreplay::gui
