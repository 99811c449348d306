#include "gui/window/widgets/value_scale.h"

#include <QPainter>
#include <algorithm>
#include <cmath>

#include "gui/figure/axis.h"
#include "gui/window/theme.h"

namespace kvreplay::gui {
namespace {

QColor mixed(const QColor& a, const QColor& b, double share) {
  const auto mix = [share](int x, int y) { return static_cast<int>(std::lround(x + (y - x) * share)); };
  return {mix(a.red(), b.red()), mix(a.green(), b.green()), mix(a.blue(), b.blue())};
}

constexpr int strip_width = 120, strip_height = 10, row_height = 20;

}  // namespace

double ValueScale::place(double value) const {
  if (std::isnan(value)) return value;
  const double size = difference ? std::abs(value) : value;
  double share = 0;
  if (logarithmic)
    share = size > low && high > low ? std::log(size / low) / std::log(high / low) : 0;
  else
    share = high > (difference ? 0 : low) ? (difference ? size / high : (size - low) / (high - low)) : 0;
  share = std::clamp(share, 0.0, 1.0);
  return difference && value < 0 ? -share : share;
}

QColor ValueScale::color(double value, const figure::Style& style) const {
  const double share = place(value);
  if (std::isnan(share)) return {};
  if (difference) {
    const double end = share < 0 ? (style.dark ? 0.16 : 0.1) : (style.dark ? 0.84 : 0.9);
    return mixed(style.background, figure::to_color(figure::color_at(figure::ColorMap::diverging, end)), std::abs(share));
  }
  const double position = style.dark ? 0.1 + 0.85 * share : 1 - 0.85 * share;
  return mixed(style.background, figure::to_color(figure::color_at(figure::ColorMap::viridis, position)),
               std::min(1.0, share * 3));
}

ValueScale fitted_scale(ValueScale scale, const std::vector<float>& values, double decades) {
  double low = std::numeric_limits<double>::infinity(), high = 0;
  for (const float each : values) {
    if (!std::isfinite(each)) continue;
    const double size = scale.difference ? std::abs(static_cast<double>(each)) : static_cast<double>(each);
    if (size > 0 || !scale.logarithmic) low = std::min(low, size);
    high = std::max(high, size);
  }
  scale.high = high;
  scale.low = std::isfinite(low) ? low : 0;
  if (scale.logarithmic) scale.low = std::max(scale.low, high * std::pow(10.0, -decades));
  return scale;
}

ScaleKey::ScaleKey(QWidget* parent) : QWidget(parent) {
  QSizePolicy policy(QSizePolicy::Expanding, QSizePolicy::Fixed);
  policy.setHeightForWidth(true);
  setSizePolicy(policy);
}

void ScaleKey::show(const ValueScale& scale, std::vector<Mark> marks) {
  scale_ = scale;
  marks_ = std::move(marks);
  updateGeometry();
  update();
}

QSize ScaleKey::sizeHint() const { return {360, heightForWidth(std::max(width(), 360))}; }
int ScaleKey::heightForWidth(int width) const { return lay_out(nullptr, width); }

void ScaleKey::paintEvent(QPaintEvent*) {
  QPainter painter(this);
  painter.setRenderHint(QPainter::Antialiasing);
  lay_out(&painter, width());
}

// Pieces one after the other, on as many rows as it takes. Returns the height.
int ScaleKey::lay_out(QPainter* painter, int width) const {
  const figure::Style& style = current_style();
  const QFont font = style.font(style.tick_size);
  const QFontMetricsF metrics(font);
  if (painter != nullptr) painter->setFont(font);
  double x = 0, y = 0;
  const auto place = [&](double needed) {
    if (x > 0 && x + needed > width) x = 0, y += row_height;
    const double left = x;
    x += needed + style.space * 2;
    return left;
  };
  const auto text = [&](double left, const QString& what, const QColor& color) {
    if (painter == nullptr) return;
    painter->setPen(color);
    painter->drawText(QPointF(left, y + row_height / 2.0 + metrics.ascent() / 2 - 1), what);
  };

  const double label = metrics.horizontalAdvance(scale_.label);
  text(place(label), scale_.label, style.muted);
  if (scale_.high > 0) {
    const auto number = [](double value) { return QString::fromStdString(figure::number_label(value, 2)); };
    const QString from = !scale_.low_name.isEmpty() ? scale_.low_name
                         : scale_.difference        ? QString::fromUtf8("−") + number(scale_.high)
                                                    : number(scale_.low);
    const QString to = scale_.high_name.isEmpty() ? number(scale_.high) : scale_.high_name;
    const double before = metrics.horizontalAdvance(from) + style.space / 2;
    const double left = place(before + strip_width + style.space / 2 + metrics.horizontalAdvance(to));
    text(left, from, style.ink);
    text(left + before + strip_width + style.space / 2, to, style.ink);
    if (painter != nullptr) {
      const QRectF strip(left + before, y + (row_height - strip_height) / 2.0, strip_width, strip_height);
      painter->setRenderHint(QPainter::Antialiasing, false);  // no seams at fractions of a pixel
      for (int i = 0; i < strip_width; ++i) {
        const double share = (i + 0.5) / strip_width, signed_share = scale_.difference ? 2 * share - 1 : share;
        ValueScale plain = scale_;
        plain.logarithmic = false, plain.low = 0, plain.high = 1;
        painter->fillRect(QRectF(strip.left() + i, strip.top(), 1, strip_height), plain.color(signed_share, style));
      }
      painter->setPen(QPen(style.muted, 1));
      painter->setBrush(Qt::NoBrush);
      painter->drawRect(strip.adjusted(-0.5, -0.5, 0.5, 0.5));
    }
  }
  for (const Mark& mark : marks_) {
    const double size = metrics.horizontalAdvance(mark.text), left = place(size);
    text(left, mark.text, mark.struck ? style.muted : style.ink);
    if (painter == nullptr) continue;
    const double middle = y + row_height / 2.0;
    if (mark.struck)
      painter->fillRect(QRectF(left, middle, size, 1.2), style.muted);
    else
      painter->fillRect(QRectF(left, mark.above ? y + 1 : y + row_height - 4, size, mark.above ? 1.6 : 3), mark.color);
  }
  return static_cast<int>(y) + row_height;
}

}  // namespace kvreplay::gui
