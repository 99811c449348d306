#include "gui/figure/line_chart.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/text.h"
#include "gui/figure/renderer.h"

namespace kvreplay::figure {
namespace {

using Panel = LineChart::Panel;

std::vector<Panel> panels_of(const LineChart& chart) {
  if (!chart.panels.empty()) return chart.panels;
  return {{"", chart.series}};
}

// The chart as a panel with its own y axis sees it.
LineChart with_axis_of(const LineChart& chart, const Panel& panel) {
  LineChart own = chart;
  own.y = *panel.y;
  own.panels = {panel};
  return own;
}

// The series of all panels, each name once: what the legend lists.
std::vector<Series> legend_series(const LineChart& chart) {
  std::vector<Series> all;
  for (const auto& panel : panels_of(chart))
    for (const auto& series : panel.series)
      if (std::none_of(all.begin(), all.end(), [&](const Series& one) { return one.name == series.name; }))
        all.push_back(series);
  return all;
}

struct LegendSize {
  bool beside = false;
  double width = 0, height = 0;
};

struct Extent {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
  void add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value), high = std::max(high, value);
  }
};

// Common to all panels.
struct Axes {
  Range x, y;
  bool zero_lane = false;
};

// Everything about one plot that depends on data, style and place.
struct Layout {
  QRectF plot;           // where data goes, the lane of zeros not included
  double zero_lane = 0;  // its height below the plot, or 0
  double zero_y = 0;     // the middle of the lane
  Range x, y;
  std::vector<Tick> x_ticks, y_ticks;
  double label_y = 0;            // baseline of the title, or of the y axis's label where there is no title
  std::vector<double> sideways;  // of each series, in pixels

  double px(double value) const { return plot.left() + x.at(value) * plot.width(); }
  double py(double value) const { return plot.bottom() - y.at(value) * plot.height(); }
};

bool drawable(const Axis& axis, double value) { return std::isfinite(value) && (!axis.logarithmic || value > 0); }

bool has_zero(const LineChart& chart) {
  if (!chart.y.logarithmic) return false;
  for (const auto& panel : panels_of(chart))
    for (const auto& series : panel.series)
      for (double value : series.y)
        if (value == 0) return true;
  return false;
}

Extent x_extent(const LineChart& chart) {
  Extent extent;
  for (const auto& panel : panels_of(chart))
    for (const auto& series : panel.series)
      for (double value : series.x)
        if (drawable(chart.x, value)) extent.add(value);
  return extent;
}

// Intervals count too, but on a logarithmic axis not further than a factor of four below the lowest point: an interval that
// reaches almost to 0 would otherwise squeeze everything else.
Extent y_extent(const LineChart& chart) {
  Extent points;
  const std::vector<Panel> panels = panels_of(chart);
  for (const auto& panel : panels)
    for (const auto& series : panel.series)
      for (double value : series.y)
        if (drawable(chart.y, value)) points.add(value);
  Extent extent = points;
  for (const auto& panel : panels) {
    for (const auto& series : panel.series) {
      for (double value : series.high)
        if (drawable(chart.y, value)) extent.add(value);
      for (double value : series.low)
        if (drawable(chart.y, value)) extent.add(chart.y.logarithmic ? std::max(value, points.low / 4) : value);
    }
  }
  return extent;
}

Axes axes_of(const LineChart& chart) {
  const Extent x = x_extent(chart), y = y_extent(chart);
  Axes axes{axis_range(chart.x, x.low, x.high), axis_range(chart.y, y.low, y.high), has_zero(chart)};
  // Room for the names of marks above the data.
  if (!chart.x_marks.empty() && !chart.y.maximum)
    axes.y.high = chart.y.logarithmic ? axes.y.high * std::pow(axes.y.high / axes.y.low, 0.1)
                                      : axes.y.high + 0.1 * (axes.y.high - axes.y.low);
  if (!chart.x.logarithmic && !chart.x.minimum && chart.x.integers && x.low <= x.high) {
    // Whole numbers: half a unit of room at either end instead of a start at 0.
    const double room = std::max(0.35, 0.02 * (x.high - x.low));
    axes.x.low = x.low - room, axes.x.high = x.high + room;
  }
  return axes;
}

class LineChartRenderer final : public Renderer {
 public:
  std::string_view kind() const override { return "line_chart"; }

  double height(const Figure& figure, const Style& style, double width) const override {
    const auto& chart = dynamic_cast<const LineChart&>(figure);
    const LegendSize legend = legend_size(chart, style, width);
    const Grid grid = grid_of(chart, style, width - (legend.beside ? legend.width : 0));
    const double label = line_height(style.font(style.label_size));
    if (legend.beside) return std::max(grid.panel_height, legend.height + label);
    // Several plots share one label of either axis.
    return legend.height + (grid.titled ? label + common_label_height(chart, style) : 0) + grid.panel_height * grid.rows +
           grid.gap * (grid.rows - 1);
  }

  void paint(const Figure& figure, Canvas& canvas, const QRectF& area) const override {
    const auto& chart = dynamic_cast<const LineChart&>(figure);
    const Style& style = canvas.style;
    const LegendSize legend = legend_size(chart, style, area.width());
    QRectF inside = area;
    if (legend.beside) {
      inside.setRight(area.right() - legend.width);
    } else {
      paint_legend(chart, canvas, QRectF(area.left(), area.top(), area.width(), legend.height), false);
      inside.setTop(area.top() + legend.height);
    }
    Grid grid = grid_of(chart, style, inside.width());
    if (grid.titled) {
      const QFont font = style.font(style.label_size);
      canvas.text(inside.left(), inside.top() + ascent(font), chart.y.label, font, style.muted);
      inside.setTop(inside.top() + common_label_height(chart, style));
      inside.setBottom(inside.bottom() - line_height(font));
      canvas.text(inside.center().x(), inside.bottom() + ascent(font), chart.x.label, font, style.muted, Align::center);
    }
    grid.panel_height = (inside.height() - grid.gap * (grid.rows - 1)) / grid.rows;
    const Axes axes = axes_of(chart);
    const std::vector<Panel> panels = panels_of(chart);
    const std::vector<Series> all = legend_series(chart);
    for (std::size_t i = 0; i < panels.size(); ++i) {
      const int column = static_cast<int>(i) % grid.columns, row = static_cast<int>(i) / grid.columns;
      const QRectF place(inside.left() + column * (grid.panel_width + grid.gap),
                         inside.top() + row * (grid.panel_height + grid.gap), grid.panel_width, grid.panel_height);
      if (panels[i].y) {
        const LineChart own = with_axis_of(chart, panels[i]);
        Axes own_axes = axes_of(own);
        own_axes.x = axes.x;
        paint_panel(own, panels[i], all, canvas, lay_out(own, panels[i], own_axes, style, place));
        continue;
      }
      const Layout layout = lay_out(chart, panels[i], axes, style, place);
      paint_panel(chart, panels[i], all, canvas, layout);
      if (legend.beside)
        paint_legend(chart, canvas,
                     QRectF(area.right() - legend.width + style.space * 1.5, layout.plot.top(),
                            legend.width - style.space * 1.5, layout.plot.height()),
                     true);
    }
  }

 private:
  // Plots in a grid; lengths in CSS pixels.
  struct Grid {
    bool titled = false;  // several plots: each has a title, and the y axis's label stands once above them
    int columns = 1, rows = 1;
    double panel_width = 0, panel_height = 0, gap = 0;
  };

  // Of the y axis's label above several plots.
  static double common_label_height(const LineChart& chart, const Style& style) {
    return chart.y.label.empty() ? 0 : line_height(style.font(style.label_size)) + style.space * 0.5;
  }

  static Grid grid_of(const LineChart& chart, const Style& style, double width) {
    Grid grid;
    const auto panels = std::max<int>(1, static_cast<int>(chart.panels.size()));
    grid.titled = !chart.panels.empty();
    grid.gap = style.space * 2;
    const double narrowest = style.tick_size * 18.0;
    grid.columns = std::clamp(static_cast<int>((width + grid.gap) / (narrowest + grid.gap)), 1, panels);
    grid.rows = (panels + grid.columns - 1) / grid.columns;
    grid.columns = (panels + grid.rows - 1) / grid.rows;
    grid.panel_width = (width - grid.gap * (grid.columns - 1)) / grid.columns;
    grid.panel_height =
        grid.titled ? std::clamp(grid.panel_width * 0.85, 170.0, 280.0) : std::clamp(grid.panel_width * 0.66, 190.0, 400.0);
    return grid;
  }

  static int style_index(const std::vector<Series>& all, const Series& series) {
    if (series.style >= 0) return series.style;
    int next = 0;
    for (const auto& one : all) {
      if (one.name == series.name) break;
      if (one.reference == series.reference && one.style < 0) ++next;
    }
    return next;
  }

  static QColor color(const Series& series, int style_number, const Style& style) {
    return series.reference ? style.ink : to_color(line_color(style_number, style.dark));
  }

  // Bounds differ in their dashes; lines whose colour comes a second time are dotted.
  static Qt::PenStyle pen_style(const Series& series, int style_number) {
    static constexpr Qt::PenStyle dashes[] = {Qt::DashLine, Qt::DashDotLine, Qt::DashDotDotLine, Qt::DotLine};
    if (series.reference) return dashes[style_number % 4];
    return style_number >= num_line_colors ? Qt::DotLine : Qt::SolidLine;
  }

  static bool hollow(const Series& series, int style_number) { return series.reference || style_number >= num_line_colors; }

  static double sample_width(const Style& style) { return style.marker_size * 3.4; }
  static double entry_width(const std::vector<Series>& all, const Style& style) {
    double widest = 0;
    for (const auto& series : all) widest = std::max(widest, text_width(series.name, style.font(style.label_size)));
    return sample_width(style) + style.space * 0.75 + widest;
  }

  static LegendSize legend_size(const LineChart& chart, const Style& style, double width) {
    LegendSize size;
    const std::vector<Series> all = legend_series(chart);
    if (all.empty() || (all.size() == 1 && all[0].name.empty())) return size;
    const double row = line_height(style.font(style.label_size)), entry = entry_width(all, style);
    size.beside = chart.panels.empty() && entry + style.space * 2 < width * 0.36;
    if (size.beside) {
      size.width = entry + style.space * 2;
      size.height = row * static_cast<double>(all.size());
      return size;
    }
    size.width = width;
    const auto columns = legend_columns(all, style, width);
    size.height = row * static_cast<double>((all.size() + columns - 1) / columns) + style.space;
    return size;
  }

  static std::size_t legend_columns(const std::vector<Series>& all, const Style& style, double width) {
    return std::max<std::size_t>(
        1, static_cast<std::size_t>((width + style.space * 2) / (entry_width(all, style) + style.space * 2)));
  }

  static Layout lay_out(const LineChart& chart, const Panel& panel, const Axes& axes, const Style& style,
                        const QRectF& area) {
    Layout layout;
    const QFont tick_font = style.font(style.tick_size), label_font = style.font(style.label_size);
    layout.x = axes.x, layout.y = axes.y;
    QRectF plot = area;
    layout.label_y = plot.top() + ascent(label_font);
    plot.setTop(plot.top() + line_height(label_font) + style.space * 0.75);

    // Bottom first: it fixes the height, which fixes the number of y ticks, whose width fixes the left edge.
    double bottom = line_height(tick_font) * (two_line_ticks(chart) ? 2 : 1) + style.space * 0.75;
    if (!chart.x.label.empty() && chart.panels.empty()) bottom += line_height(label_font);
    layout.zero_lane = axes.zero_lane ? style.marker_size * 3 : 0;
    plot.setBottom(area.bottom() - bottom - layout.zero_lane);

    const int y_count = std::max(2, static_cast<int>(plot.height() / (style.tick_size * 2.6)));
    layout.y_ticks = !chart.y.ticks.empty() ? chart.y.ticks
                     : chart.y.logarithmic  ? log_ticks(layout.y.low, layout.y.high, y_count)
                                            : linear_ticks(layout.y.low, layout.y.high, y_count, chart.y.integers);
    double left = layout.zero_lane > 0 ? text_width("0", tick_font) : 0;
    for (const auto& tick : layout.y_ticks) left = std::max(left, text_width(tick.label, tick_font));
    plot.setLeft(area.left() + left + style.space * 0.9);
    plot.setRight(plot.right() - style.space);
    layout.plot = plot;
    layout.zero_y = plot.bottom() + layout.zero_lane * 0.55;
    layout.sideways = spread(panel, style, layout);
    make_room(layout, style);
    layout.x_ticks = x_ticks(chart, style, layout);
    return layout;
  }

  static bool two_line_ticks(const LineChart& chart) {
    return std::any_of(chart.x.ticks.begin(), chart.x.ticks.end(),
                       [](const Tick& tick) { return tick.label.find('\n') != std::string::npos; });
  }

  // The ticks whose numbers do not run into each other.
  static std::vector<Tick> x_ticks(const LineChart& chart, const Style& style, const Layout& layout) {
    const QFont font = style.font(style.tick_size);
    const int count = std::max(2, static_cast<int>(layout.plot.width() / (style.tick_size * 5.0)));
    std::vector<Tick> ticks = !chart.x.ticks.empty() ? chart.x.ticks
                              : chart.x.logarithmic  ? log_ticks(layout.x.low, layout.x.high, count)
                                                     : linear_ticks(layout.x.low, layout.x.high, count, chart.x.integers);
    double free_from = -std::numeric_limits<double>::infinity();
    for (auto& tick : ticks) {
      double half = 0;
      for (const auto& line : split(tick.label, '\n')) half = std::max(half, text_width(line, font) / 2);
      const double x = layout.px(tick.value);
      if (x - half < free_from) {
        tick.label.clear();
      } else if (!tick.label.empty()) {
        free_from = x + half + style.space;
      }
    }
    return ticks;
  }

  // Widens the x axis so that shifted points and their markers stay within the plot.
  static void make_room(Layout& layout, const Style& style) {
    double most = 0;
    for (double shift : layout.sideways) most = std::max(most, std::abs(shift));
    const double share = (most > 0 ? most + style.marker_size : 0) / layout.plot.width();
    if (share == 0) return;
    if (layout.x.logarithmic) {
      const double factor = std::pow(layout.x.high / layout.x.low, share);
      layout.x.low /= factor, layout.x.high *= factor;
    } else {
      const double width = (layout.x.high - layout.x.low) * share;
      layout.x.low -= width, layout.x.high += width;
    }
  }

  // Sideways shifts that keep intervals at the same x apart; 0 where there are none.
  static std::vector<double> spread(const Panel& panel, const Style& style, const Layout& layout) {
    std::vector<double> shift(panel.series.size(), 0.0);
    const bool intervals =
        std::any_of(panel.series.begin(), panel.series.end(), [](const Series& series) { return !series.low.empty(); });
    if (!intervals || panel.series.size() < 2) return shift;
    double gap = layout.plot.width();
    for (const auto& series : panel.series)
      for (std::size_t i = 1; i < series.x.size(); ++i)
        gap = std::min(gap, std::abs(layout.px(series.x[i]) - layout.px(series.x[i - 1])));
    const double step = std::min(style.marker_size * 0.5, gap * 0.5 / static_cast<double>(panel.series.size()));
    for (std::size_t i = 0; i < shift.size(); ++i)
      shift[i] = step * (static_cast<double>(i) - static_cast<double>(shift.size() - 1) / 2);
    return shift;
  }

  static void paint_panel(const LineChart& chart, const Panel& panel, const std::vector<Series>& all, Canvas& canvas,
                          const Layout& layout) {
    const QFont font = canvas.style.font(canvas.style.label_size, !panel.title.empty());
    canvas.text(layout.plot.left(), layout.label_y,
                panel.title.empty() && chart.panels.empty() ? chart.y.label : panel.title, font,
                panel.title.empty() ? canvas.style.muted : canvas.style.ink);
    paint_axes(chart, canvas, layout);
    paint_marks(chart, canvas, layout);
    // Bounds first, so that what is compared with them lies on top.
    for (bool reference : {true, false})
      for (std::size_t i = 0; i < panel.series.size(); ++i)
        if (panel.series[i].reference == reference)
          paint_series(chart, panel.series[i], style_index(all, panel.series[i]), layout.sideways[i], canvas, layout);
  }

  static void paint_marks(const LineChart& chart, Canvas& canvas, const Layout& layout) {
    const Style& style = canvas.style;
    const QFont font = style.font(style.tick_size);
    for (const auto& mark : chart.x_marks) {
      const double x = layout.px(mark.value);
      if (!(x >= layout.plot.left() - 0.5 && x <= layout.plot.right() + 0.5)) continue;
      canvas.line(x, layout.plot.top(), x, layout.plot.bottom(), style.muted, style.thin_line, Qt::DashLine);
      const bool flip = x + style.space * 0.5 + text_width(mark.label, font) > layout.plot.right();
      canvas.text(flip ? x - style.space * 0.5 : x + style.space * 0.5, layout.plot.top() + ascent(font), mark.label, font,
                  style.muted, flip ? Align::right : Align::left);
    }
    if (std::isfinite(x_extent(chart).low) && (std::isfinite(y_extent(chart).low) || has_zero(chart))) return;
    canvas.text(layout.plot.center().x(), layout.plot.center().y(), "no values", style.font(style.label_size), style.muted,
                Align::center);
  }

  // At most two points a pixel column, its highest and its lowest, where there are more.
  static void decimate(std::vector<QPointF>& points, std::vector<bool>& drawn, const Layout& layout) {
    if (static_cast<double>(points.size()) <= layout.plot.width() * 2) return;
    std::vector<QPointF> few;
    std::vector<bool> few_drawn;
    for (std::size_t begin = 0, end = 0; begin < points.size(); begin = end) {
      std::size_t low = begin, high = begin;
      for (end = begin;
           end < points.size() && drawn[end] == drawn[begin] && std::floor(points[end].x()) == std::floor(points[begin].x());
           ++end) {
        if (points[end].y() < points[low].y()) low = end;
        if (points[end].y() > points[high].y()) high = end;
      }
      for (std::size_t i : {std::min(low, high), std::max(low, high)}) {
        few.push_back(points[i]), few_drawn.push_back(drawn[begin]);
        if (low == high) break;
      }
    }
    points = std::move(few), drawn = std::move(few_drawn);
  }

  static void paint_axes(const LineChart& chart, Canvas& canvas, const Layout& layout) {
    const Style& style = canvas.style;
    const QFont tick_font = style.font(style.tick_size), label_font = style.font(style.label_size);
    const double bottom = layout.plot.bottom() + layout.zero_lane;
    for (const auto& tick : layout.y_ticks) {
      const double y = layout.py(tick.value);
      canvas.line(layout.plot.left(), y, layout.plot.right(), y, style.grid, style.thin_line);
      canvas.text(layout.plot.left() - style.space * 0.7, y + style.tick_size * 0.36, tick.label, tick_font, style.muted,
                  Align::right);
    }
    if (layout.zero_lane > 0) {
      canvas.line(layout.plot.left(), layout.plot.bottom(), layout.plot.right(), layout.plot.bottom(), style.muted,
                  style.thin_line, Qt::DotLine);
      canvas.text(layout.plot.left() - style.space * 0.7, layout.zero_y + style.tick_size * 0.36, "0", tick_font,
                  style.muted, Align::right);
    }
    canvas.line(layout.plot.left(), bottom, layout.plot.right(), bottom, style.muted, style.thin_line);
    double y = bottom + style.space * 0.5;
    for (const auto& tick : layout.x_ticks) {
      const double x = layout.px(tick.value);
      canvas.line(x, bottom, x, bottom + style.space * (tick.label.empty() ? 0.3 : 0.5), style.muted, style.thin_line);
      double baseline = y + ascent(tick_font);
      for (const auto& line : split(tick.label, '\n')) {
        canvas.text(x, baseline, line, tick_font, style.muted, Align::center);
        baseline += line_height(tick_font);
      }
    }
    if (!chart.panels.empty()) return;
    y += line_height(tick_font) * (two_line_ticks(chart) ? 2 : 1);
    canvas.text(layout.plot.center().x(), y + ascent(label_font), chart.x.label, label_font, style.muted, Align::center);
  }

  static void paint_series(const LineChart& chart, const Series& series, int style_number, double sideways, Canvas& canvas,
                           const Layout& layout) {
    const Style& style = canvas.style;
    const QColor ink = color(series, style_number, style);
    std::vector<QPointF> points;
    std::vector<bool> drawn;  // false breaks the line
    for (std::size_t i = 0; i < series.x.size() && i < series.y.size(); ++i) {
      const double value = series.y[i];
      const bool zero = value == 0 && layout.zero_lane > 0;
      drawn.push_back(drawable(chart.x, series.x[i]) && (zero || drawable(chart.y, value)));
      const double y = zero ? layout.zero_y : drawn.back() ? layout.py(value) : 0;
      points.emplace_back(drawn.back() ? layout.px(series.x[i]) + sideways : 0, y);
    }
    paint_intervals(chart, series, canvas, layout, ink, points, drawn);
    decimate(points, drawn, layout);
    const Qt::PenStyle pen = pen_style(series, style_number);
    for (std::size_t i = 1; i < points.size(); ++i)
      if (drawn[i - 1] && drawn[i])
        canvas.line(points[i - 1].x(), points[i - 1].y(), points[i].x(), points[i].y(), ink, style.line_width, pen);
    if (series.line_only) return;
    // Where points stand close together only some have a marker, every series at places of its own.
    const double room = layout.plot.width() / std::max<double>(1, static_cast<double>(points.size()));
    const auto stride = static_cast<std::size_t>(std::max(1.0, std::ceil(style.marker_size * 2.5 / room)));
    const std::size_t first = stride == 1 ? 0 : static_cast<std::size_t>(style_number * 3) % stride;
    for (std::size_t i = first; i < points.size(); i += stride)
      if (drawn[i])
        canvas.marker(style_number, points[i].x(), points[i].y(), style.marker_size, ink, hollow(series, style_number));
  }

  static void paint_intervals(const LineChart& chart, const Series& series, Canvas& canvas, const Layout& layout, QColor ink,
                              const std::vector<QPointF>& points, const std::vector<bool>& drawn) {
    ink.setAlphaF(0.55F);
    const double cap = canvas.style.marker_size * 0.28;
    const double top = layout.plot.top(), bottom = layout.plot.bottom();
    for (std::size_t i = 0; i < points.size() && i < series.low.size() && i < series.high.size(); ++i) {
      if (!drawn[i] || !drawable(chart.y, series.high[i]) || series.high[i] <= series.low[i]) continue;
      const double low = drawable(chart.y, series.low[i]) ? layout.py(series.low[i]) : bottom + 1;
      const double high = layout.py(series.high[i]);
      const double x = points[i].x();
      canvas.line(x, std::max(high, top), x, std::min(low, bottom), ink, canvas.style.thin_line * 1.2);
      // No cap where the interval goes on beyond the axis.
      if (high >= top) canvas.line(x - cap, high, x + cap, high, ink, canvas.style.thin_line * 1.2);
      if (low <= bottom) canvas.line(x - cap, low, x + cap, low, ink, canvas.style.thin_line * 1.2);
    }
  }

  static void paint_legend(const LineChart& chart, Canvas& canvas, const QRectF& area, bool beside) {
    const Style& style = canvas.style;
    if (legend_size(chart, style, 1e6).width == 0) return;
    const std::vector<Series> all = legend_series(chart);
    const QFont font = style.font(style.label_size);
    const double row = line_height(font), entry = entry_width(all, style), sample = sample_width(style);
    const std::size_t columns = beside ? 1 : legend_columns(all, style, area.width());
    for (std::size_t i = 0; i < all.size(); ++i) {
      const int style_number = style_index(all, all[i]);
      const double x = area.left() + static_cast<double>(i % columns) * (entry + style.space * 2);
      const double middle = area.top() + static_cast<double>(i / columns) * row + row * 0.5;
      const QColor ink = color(all[i], style_number, style);
      canvas.line(x, middle, x + sample, middle, ink, style.line_width, pen_style(all[i], style_number));
      if (!all[i].line_only)
        canvas.marker(style_number, x + sample / 2, middle, style.marker_size, ink, hollow(all[i], style_number));
      canvas.text(x + sample + style.space * 0.75, middle + style.label_size * 0.36,
                  elided(all[i].name, font, area.right() - x - sample - style.space * 0.75), font, style.ink);
    }
  }
};

}  // namespace

Table LineChart::data() const {
  Table table;
  const std::vector<Panel> all = panels_of(*this);
  bool intervals = false;
  for (const auto& panel : all)
    for (const auto& one : panel.series) intervals = intervals || !one.low.empty();
  if (!panels.empty()) table.columns.emplace_back("panel");
  table.columns.insert(table.columns.end(), {"series", x.label.empty() ? "x" : x.label, y.label.empty() ? "y" : y.label});
  if (intervals) table.columns.insert(table.columns.end(), {"low", "high"});
  for (const auto& panel : all) {
    for (const auto& one : panel.series) {
      for (std::size_t i = 0; i < one.x.size() && i < one.y.size(); ++i) {
        std::vector<std::string> row;
        if (!panels.empty()) row.push_back(panel.title);
        row.insert(row.end(), {one.name, format_number(one.x[i]), format_number(one.y[i])});
        const bool known = i < one.low.size() && i < one.high.size();
        if (intervals) row.push_back(known ? format_number(one.low[i]) : "");
        if (intervals) row.push_back(known ? format_number(one.high[i]) : "");
        table.rows.push_back(std::move(row));
      }
    }
  }
  return table;
}

const Renderer& line_chart_renderer() {
  static const LineChartRenderer renderer;
  return renderer;
}

}  // namespace kvreplay::figure
