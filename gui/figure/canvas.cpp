#include "gui/figure/canvas.h"

#include <QFontDatabase>
#include <QFontMetricsF>
#include <QGuiApplication>
#include <QPainterPath>
#include <QPolygonF>
#include <cmath>
#include <memory>
#include <mutex>
#include <numbers>

#include "core/base/error.h"

namespace kvreplay::figure {
namespace {

constexpr const char* font_family = "DejaVu Sans";

QString to_qstring(const std::string& text) { return QString::fromStdString(text); }

QPolygonF regular_polygon(double x, double y, double radius, int corners, double turn) {
  QPolygonF polygon;
  for (int i = 0; i < corners; ++i) {
    const double angle = turn + 2 * std::numbers::pi * i / corners;
    polygon << QPointF(x + radius * std::sin(angle), y - radius * std::cos(angle));
  }
  return polygon;
}

QPolygonF cross(double x, double y, double radius, double turn) {
  static constexpr double arm = 0.36;
  static constexpr double corners[12][2] = {{-arm, -1}, {arm, -1}, {arm, -arm}, {1, -arm}, {1, arm},   {arm, arm},
                                            {arm, 1},   {-arm, 1}, {-arm, arm}, {-1, arm}, {-1, -arm}, {-arm, -arm}};
  QPolygonF polygon;
  for (const auto& corner : corners)
    polygon << QPointF(x + radius * (corner[0] * std::cos(turn) - corner[1] * std::sin(turn)),
                       y + radius * (corner[0] * std::sin(turn) + corner[1] * std::cos(turn)));
  return polygon;
}

}  // namespace

QFont Style::font(int pixel_size, bool bold) const {
  QFont font;
  font.setFamilies({font_family, "Verdana", "sans-serif"});
  font.setPixelSize(pixel_size);
  font.setBold(bold);
  // Widths must not depend on the device, or the layout would differ between PNG and SVG.
  font.setHintingPreference(QFont::PreferNoHinting);
  return font;
}

Style make_style(Medium medium, bool dark) {
  Style style;
  style.dark = dark;
  if (medium == Medium::print) {
    style.title_size = 12, style.label_size = 10, style.tick_size = 9;
    style.cells_a_pixel = 6;  // 576 an inch
    style.line_width = 1.3, style.thin_line = 0.7, style.marker_size = 5.5, style.space = 5;
  }
  style.background = dark ? QColor(0x16, 0x19, 0x1d) : QColor(0xff, 0xff, 0xff);
  style.ink = dark ? QColor(0xec, 0xee, 0xf0) : QColor(0x1b, 0x1f, 0x24);
  style.muted = dark ? QColor(0xa3, 0xab, 0xb5) : QColor(0x57, 0x60, 0x6a);
  style.grid = dark ? QColor(0x33, 0x39, 0x41) : QColor(0xe2, 0xe6, 0xea);
  style.missing = dark ? QColor(0x4a, 0x50, 0x58) : QColor(0xc9, 0xce, 0xd4);
  return style;
}

void prepare_fonts() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (QCoreApplication::instance() == nullptr) {
      // Figures never open a window; without this Qt would look for a display and abort when there is none.
      if (qEnvironmentVariableIsEmpty("QT_QPA_PLATFORM")) qputenv("QT_QPA_PLATFORM", "offscreen");
      static int count = 1;
      static char name[] = "kvreplay";
      static char* arguments[] = {name, nullptr};
      // Lives as long as the program: Qt's font engines must outlive every figure.
      // What it says meanwhile (XDG_RUNTIME_DIR is not set, ...) is of no use to who asked for a figure.
      const auto handler = qInstallMessageHandler([](QtMsgType, const QMessageLogContext&, const QString&) {});
      new QGuiApplication(count, arguments);
      qInstallMessageHandler(handler);
    }
  });
  if (QFontDatabase::families().isEmpty())
    throw Error("figure", "no font is installed", "apt-get install fonts-dejavu-core");
}

QColor to_color(Rgb rgb, int alpha) { return {rgb.red, rgb.green, rgb.blue, alpha}; }

void Canvas::text(double x, double y, const std::string& text, const QFont& font, const QColor& color, Align align) {
  if (text.empty()) return;
  if (align != Align::left) x -= text_width(text, font) * (align == Align::center ? 0.5 : 1.0);
  painter.setFont(font);
  painter.setPen(color);
  painter.drawText(QPointF(x, y), to_qstring(text));
}

double Canvas::paragraph(double x, double y, double width, const std::string& text, const QFont& font, const QColor& color) {
  for (const auto& one : wrap_text(text, font, width)) {
    this->text(x, y + ascent(font), one, font, color);
    y += line_height(font);
  }
  return y;
}

void Canvas::line(double x1, double y1, double x2, double y2, const QColor& color, double width, Qt::PenStyle pen) {
  painter.setPen(QPen(color, width, pen, Qt::FlatCap));
  painter.drawLine(QPointF(x1, y1), QPointF(x2, y2));
}

void Canvas::rectangle(const QRectF& area, const QColor& fill) {
  painter.setPen(Qt::NoPen);
  painter.setBrush(fill);
  painter.drawRect(area);
}

void Canvas::marker(int index, double x, double y, double size, const QColor& color, bool hollow) {
  const double radius = size / 2;
  painter.setPen(QPen(hollow ? color : style.background, hollow ? style.line_width * 0.8 : style.thin_line * 0.8));
  painter.setBrush(hollow ? style.background : color);
  switch (index % num_line_colors) {
    case 0: painter.drawEllipse(QPointF(x, y), radius, radius); break;
    case 1: painter.drawPolygon(regular_polygon(x, y, radius * 1.2, 4, std::numbers::pi / 4)); break;  // square
    case 2: painter.drawPolygon(regular_polygon(x, y + radius * 0.2, radius * 1.3, 3, 0)); break;      // triangle
    case 3: painter.drawPolygon(regular_polygon(x, y, radius * 1.3, 4, 0)); break;                     // diamond
    case 4: painter.drawPolygon(regular_polygon(x, y - radius * 0.2, radius * 1.3, 3, std::numbers::pi)); break;
    case 5: painter.drawPolygon(cross(x, y, radius * 1.15, 0)); break;                     // plus
    case 6: painter.drawPolygon(cross(x, y, radius * 1.15, std::numbers::pi / 4)); break;  // times
    default: painter.drawPolygon(regular_polygon(x, y, radius * 1.15, 6, 0)); break;       // hexagon
  }
}

double text_width(const std::string& text, const QFont& font) {
  return QFontMetricsF(font).horizontalAdvance(to_qstring(text));
}

std::string elided(const std::string& text, const QFont& font, double width) {
  return QFontMetricsF(font).elidedText(to_qstring(text), Qt::ElideMiddle, width).toStdString();
}

double line_height(const QFont& font) { return std::ceil(font.pixelSize() * 1.35); }

double ascent(const QFont& font) { return std::ceil(font.pixelSize() * 1.02); }

std::vector<std::string> wrap_text(const std::string& text, const QFont& font, double width) {
  std::vector<std::string> lines;
  std::string line, word;
  const auto place = [&] {
    if (word.empty()) return;
    if (!line.empty() && text_width(line + " " + word, font) > width) {
      lines.push_back(line);
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
    word.clear();
  };
  for (char c : text) {
    if (c == ' ' || c == '\n') {
      place();
      if (c == '\n') {
        lines.push_back(line);
        line.clear();
      }
    } else {
      word += c;
    }
  }
  place();
  if (!line.empty()) lines.push_back(line);
  return lines;
}

double paragraph_height(const std::string& text, const QFont& font, double width) {
  return static_cast<double>(wrap_text(text, font, width).size()) * line_height(font);
}

double draw_heading(Canvas* canvas, const Figure& figure, const Style& style, const QRectF& area) {
  double y = area.top();
  const auto put = [&](const std::string& text, const QFont& font, const QColor& color) {
    if (text.empty()) return;
    if (canvas != nullptr) canvas->paragraph(area.left(), y, area.width(), text, font, color);
    y += paragraph_height(text, font, area.width());
  };
  put(figure.title, style.font(style.title_size, true), style.ink);
  if (!figure.title.empty() && !figure.subtitle.empty()) y += style.space * 0.4;
  put(figure.subtitle, style.font(style.label_size), style.muted);
  return y > area.top() ? y + style.space * 1.5 : y;
}

}  // namespace kvreplay::figure
