#include "gui/window/widgets/color_scale.h"

#include <QImage>
#include <QPainter>
#include <algorithm>
#include <cmath>

#include "gui/figure/axis.h"

namespace kvreplay::gui {
namespace {

QColor state_color(const figure::MapState& state, const figure::Style& style) {
  if (state.strong) return style.ink;
  return style.dark ? QColor(0x2e, 0x34, 0x3b) : QColor(0xe3, 0xe7, 0xeb);
}

QRgb amount_color(const ColorScale& scale, double position) {
  double at = scale.reversed ? 1 - position : position;
  if (scale.map == figure::ColorMap::diverging) {
    const double away = 2 * at - 1;  // from the middle
    at = away == 0 ? 0.5 : 0.5 + 0.5 * std::copysign(scale.start + (1 - scale.start) * std::fabs(away), away);
  } else {
    at = scale.reversed ? (1 - scale.start) * at : scale.start + (1 - scale.start) * at;
  }
  return figure::to_color(figure::color_at(scale.map, at)).rgb();
}

// A piece of the key that stays together.
struct Item {
  std::string before, after;  // text on either side of the colours
  std::string low, high;      // numbers at the ends of a bar
  QColor color;
  bool bar = false;
};

constexpr int bar_width = 150, bar_height = 10, swatch_width = 12, gap = 5, between = 18;

std::string end_label(double value, const std::string& note) {
  std::string number = figure::number_label(value);
  if (number.rfind('-', 0) == 0) number.replace(0, 1, "−");
  return note.empty() ? number : note + " (" + number + ")";
}

std::vector<Item> items_of(const ColorScale& scale, const figure::Style& style) {
  std::vector<Item> items;
  const auto bar = [&] {
    Item item;
    item.bar = true;
    item.before = scale.label;
    item.low = scale.form == ColorScale::Form::symmetric_log ? end_label(-scale.high, scale.low_note)
                                                             : end_label(scale.low, scale.low_note);
    item.high = end_label(scale.high, scale.high_note);
    if (scale.form == ColorScale::Form::logarithmic) item.high += ", log";
    if (scale.form == ColorScale::Form::symmetric_log) item.high += ", log from ±" + figure::number_label(scale.low);
    items.push_back(item);
  };
  const auto swatch = [&](const std::string& label, const QColor& color) {
    Item item;
    item.after = label;
    item.color = color;
    items.push_back(item);
  };
  for (const auto& state : scale.states) swatch(state.label, state_color(state, style));
  if (scale.amounts) {
    bar();
  } else if (!scale.label.empty()) {
    Item item;
    item.before = scale.label;
    items.push_back(item);
  }
  if (!scale.missing_label.empty()) swatch(scale.missing_label, style.missing);
  return items;
}

int width_of(const Item& item, const QFont& font) {
  const auto text = [&](const std::string& words) {
    return words.empty() ? 0 : static_cast<int>(std::ceil(figure::text_width(words, font))) + gap;
  };
  return text(item.before) + text(item.low) + text(item.high) + text(item.after) +
         (item.bar               ? bar_width + gap
          : item.color.isValid() ? swatch_width + gap
                                 : 0);
}

void paint_bar(const ColorScale& scale, QPainter& painter, const figure::Style& style, const QRect& area) {
  QImage image(area.width(), 1, QImage::Format_RGB32);
  for (int x = 0; x < area.width(); ++x)
    image.setPixel(x, 0, amount_color(scale, (x + 0.5) / static_cast<double>(area.width())));
  painter.drawImage(area, image);
  painter.setPen(style.grid);
  painter.setBrush(Qt::NoBrush);
  painter.drawRect(QRectF(area).adjusted(0.5, 0.5, -0.5, -0.5));
}

void paint_item(const ColorScale& scale, const Item& item, figure::Canvas& canvas, const QFont& font, int x, int top,
                int height) {
  const double baseline = top + (height + font.pixelSize() * 0.72) / 2;
  const auto text = [&](const std::string& words, const QColor& color) {
    if (words.empty()) return;
    canvas.text(x, baseline, words, font, color);
    x += static_cast<int>(std::ceil(figure::text_width(words, font))) + gap;
  };
  text(item.before, canvas.style.ink);
  text(item.low, canvas.style.muted);
  if (item.bar) {
    paint_bar(scale, canvas.painter, canvas.style, QRect(x, top + (height - bar_height) / 2, bar_width, bar_height));
    x += bar_width + gap;
  } else if (item.color.isValid()) {
    const QRect place(x, top + (height - bar_height) / 2, swatch_width, bar_height);
    canvas.painter.fillRect(place, item.color);
    canvas.painter.setPen(canvas.style.grid);
    canvas.painter.setBrush(Qt::NoBrush);
    canvas.painter.drawRect(QRectF(place).adjusted(0.5, 0.5, -0.5, -0.5));
    x += swatch_width + gap;
  }
  text(item.high, canvas.style.muted);
  text(item.after, canvas.style.ink);
}

}  // namespace

double ColorScale::position(double value) const {
  double at = 0.5;
  switch (form) {
    case Form::linear: at = high > low ? (value - low) / (high - low) : 0.5; break;
    case Form::logarithmic: at = value <= low ? 0 : high > low ? std::log(value / low) / std::log(high / low) : 1; break;
    case Form::symmetric_log: {
      const double magnitude = std::fabs(value);
      const double away = magnitude <= low ? 0 : high > low ? std::log(magnitude / low) / std::log(high / low) : 1;
      at = 0.5 + 0.5 * std::copysign(std::min(1.0, away), value);
    }
  }
  return std::clamp(at, 0.0, 1.0);
}

QRgb ColorScale::color(float value, const figure::Style& style) const {
  if (std::isnan(value)) return style.missing.rgb();
  for (const auto& state : states)
    if (state.value == value) return state_color(state, style).rgb();
  return amount_color(*this, position(value));
}

ColorTable::ColorTable(const ColorScale& scale, const figure::Style& style) : scale_(scale), missing_(style.missing.rgb()) {
  for (int i = 0; i < size; ++i) table_.push_back(amount_color(scale, i / (size - 1.0)));
  for (const auto& state : scale.states) states_.emplace_back(state.value, state_color(state, style).rgb());
  const double span = scale.high > scale.low ? scale.high - scale.low : 1;
  factor_ = static_cast<float>((size - 1) / span);
  offset_ = static_cast<float>(0.5 - scale.low * (size - 1) / span);
}

void ColorTable::colors(const float* values, int count, QRgb* out) const {
  const bool linear = scale_.form == ColorScale::Form::linear;
  for (int i = 0; i < count; ++i) {
    const float value = values[i];
    if (std::isnan(value)) {
      out[i] = missing_;
      continue;
    }
    const auto state = std::find_if(states_.begin(), states_.end(), [value](const auto& one) { return one.first == value; });
    if (state != states_.end()) {
      out[i] = state->second;
      continue;
    }
    const float place = linear ? value * factor_ + offset_ : static_cast<float>(scale_.position(value) * (size - 1) + 0.5);
    out[i] = table_[static_cast<std::size_t>(std::clamp(place, 0.0F, static_cast<float>(size - 1)))];
  }
}

void set_amounts(ColorScale& scale, const Pyramid::Extent& extent) {
  constexpr double decades = 1e-4;  // of the largest, which are shown
  const double largest = std::max(std::fabs(extent.low), std::fabs(extent.high));
  if (!(largest > 0)) {  // nothing, or zeros alone
    scale.form = ColorScale::Form::linear;
    scale.high = 1;
    scale.low = scale.map == figure::ColorMap::diverging ? -1 : 0;
    return;
  }
  if (scale.map == figure::ColorMap::diverging) {
    scale.form = ColorScale::Form::symmetric_log;
    scale.high = largest;
    scale.low = largest * decades;
  } else if (extent.low >= 0) {
    scale.form = ColorScale::Form::logarithmic;
    scale.high = extent.high;
    scale.low = std::max<double>(std::min(extent.smallest, extent.high / 2), extent.high * decades);
  } else {
    scale.form = ColorScale::Form::linear;
    scale.low = extent.low;
    scale.high = extent.high > extent.low ? extent.high : extent.low + 1;
  }
}

void put_scale(const ColorScale& scale, figure::HeatMap& map, std::vector<float>& values) {
  map.color_map = scale.map;
  map.value_label = scale.label;
  map.states = scale.states;
  map.minimum = scale.low;
  map.maximum = scale.high;
  if (scale.map != figure::ColorMap::diverging) map.color_start = scale.start;
  if (!scale.low_note.empty()) map.value_label += ": " + scale.low_note + " below 0, " + scale.high_note + " above";
  if (scale.form == ColorScale::Form::linear) return;
  if (scale.form == ColorScale::Form::logarithmic) {
    map.value_label = "log₁₀ of " + scale.label;
    map.minimum = std::log10(scale.low), map.maximum = std::log10(scale.high);
    for (float& value : values)
      if (!std::isnan(value)) value = static_cast<float>(std::log10(std::max<double>(value, scale.low)));
    return;
  }
  map.minimum = -scale.high;
}

int paint_key(const ColorScale& scale, const figure::Style& style, QPainter* painter, int x, int y, int width) {
  const QFont font = style.font(style.tick_size);
  const int line = static_cast<int>(figure::line_height(font)) + 2;
  int at = 0, top = y;
  for (const Item& item : items_of(scale, style)) {
    const int needed = width_of(item, font);
    if (at > 0 && at + needed > width) at = 0, top += line;
    if (painter != nullptr) {
      figure::Canvas canvas{*painter, style};
      paint_item(scale, item, canvas, font, x + at, top, line);
    }
    at += needed + between;
  }
  return top + line - y;
}

}  // namespace kvreplay::gui
