// What renderers draw with: a QPainter, the style of the medium, and text that knows its size.
#pragma once

#include <QColor>
#include <QFont>
#include <QPainter>
#include <QRectF>
#include <string>
#include <vector>

#include "gui/figure/color_map.h"
#include "gui/figure/figure.h"

namespace kvreplay::figure {

// Sizes in CSS pixels. Font sizes are whole numbers because QFont takes no other pixel sizes.
struct Style {
  bool dark = false;
  int title_size = 16, label_size = 13, tick_size = 12;
  double line_width = 1.8, thin_line = 1, marker_size = 7.5;
  double cells_a_pixel = 2;  // of a matrix, in either direction: what the medium can show
  double space = 8;          // between things that belong together; twice as much between those that do not
  QColor background, ink, muted, grid, missing;
  QFont font(int pixel_size, bool bold = false) const;
};

Style make_style(Medium medium, bool dark);

// Starts a QGuiApplication without a display where the program has none. Throws Error when there is no font.
void prepare_fonts();

QColor to_color(Rgb rgb, int alpha = 255);

enum class Align : unsigned char { left, center, right };

struct Canvas {
  QPainter& painter;
  const Style& style;

  // One line whose baseline is at y.
  void text(double x, double y, const std::string& text, const QFont& font, const QColor& color, Align align = Align::left);
  // Lines of a wrapped text, the top of the first at y. Returns the bottom of the last.
  double paragraph(double x, double y, double width, const std::string& text, const QFont& font, const QColor& color);
  void line(double x1, double y1, double x2, double y2, const QColor& color, double width, Qt::PenStyle pen = Qt::SolidLine);
  void rectangle(const QRectF& area, const QColor& fill);
  // The marker of a line style, centred.
  void marker(int index, double x, double y, double size, const QColor& color, bool hollow = false);
};

// Of one line, without painting.
double text_width(const std::string& text, const QFont& font);
// Its middle cut out where it is wider: the ends tell long names apart.
std::string elided(const std::string& text, const QFont& font, double width);
double line_height(const QFont& font);
double ascent(const QFont& font);
std::vector<std::string> wrap_text(const std::string& text, const QFont& font, double width);
double paragraph_height(const std::string& text, const QFont& font, double width);

// Title and subtitle at the top of `area`; returns the y below them. A null canvas only measures.
double draw_heading(Canvas* canvas, const Figure& figure, const Style& style, const QRectF& area);

}  // namespace kvreplay::figure
