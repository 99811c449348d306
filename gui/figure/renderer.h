// How one kind of figure is drawn. One class in one file a kind, named in renderers.def.
#pragma once

#include "gui/figure/canvas.h"
#include "gui/figure/figure.h"

namespace kvreplay::figure {

class Renderer {
 public:
  virtual ~Renderer() = default;
  virtual std::string_view kind() const = 0;
  // Without title and subtitle, in CSS pixels.
  virtual double height(const Figure& figure, const Style& style, double width) const = 0;
  virtual void paint(const Figure& figure, Canvas& canvas, const QRectF& area) const = 0;
};

// Throws Error for a kind that renderers.def does not list.
const Renderer& renderer_of(const Figure& figure);

// Title, subtitle and content within `area`: what panels of a window call.
void paint_figure(QPainter& painter, const QRectF& area, const Figure& figure, const Style& style, bool heading = true);

}  // namespace kvreplay::figure
