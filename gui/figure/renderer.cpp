#include "gui/figure/renderer.h"

#include <string>
#include <vector>

#include "core/base/error.h"

namespace kvreplay::figure {

#define KVREPLAY_RENDERER(name) const Renderer& name##_renderer();
#include "gui/figure/renderers.def"
#undef KVREPLAY_RENDERER

const Renderer& renderer_of(const Figure& figure) {
  static const std::vector<const Renderer*> all = {
#define KVREPLAY_RENDERER(name) &name##_renderer(),
#include "gui/figure/renderers.def"
#undef KVREPLAY_RENDERER
  };
  for (const Renderer* renderer : all)
    if (renderer->kind() == figure.kind()) return *renderer;
  throw Error("figure", "no renderer for the kind \"" + std::string(figure.kind()) + "\"");
}

void paint_figure(QPainter& painter, const QRectF& area, const Figure& figure, const Style& style, bool heading) {
  painter.setRenderHint(QPainter::Antialiasing);
  painter.setRenderHint(QPainter::TextAntialiasing);
  Canvas canvas{painter, style};
  painter.setFont(style.font(style.tick_size));
  canvas.rectangle(area, style.background);
  const double margin = style.space;
  QRectF inside = area.adjusted(margin, margin, -margin, -margin);
  if (heading) inside.setTop(draw_heading(&canvas, figure, style, inside));
  renderer_of(figure).paint(figure, canvas, inside);
}

}  // namespace kvreplay::figure
