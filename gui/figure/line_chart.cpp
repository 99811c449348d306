#include "gui/figure/line_chart.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/text.h"
#include "gui/figure/renderer.h"

namespace kvreplay::figure {
namespace {

struct LegendSize {
  bool beside = false;
  double width = 0, height = 0;
};

// Everything that depends on data, style and width; computed once a call.
struct Layout {
  QRectF plot;           // where data goes, the lane of zeros not included
  double zero_lane = 0;  // its height below the plot, or 0
  double zero_y = 0;     // the middle of the lane
  Range x, y;
  std::vector<Tick> x_ticks, y_ticks;
  QRectF legend;
  bool legend_beside = false;
  double label_y = 0;            // baseline of the y axis's label
  std::vector<double> sideways;  // of each series, in pixels

  double px(double value) const { return plot.left() + x.at(value) * plot.width(); }
  double py(double value) const { return plot.bottom() - y.at(value) * plot.height(); }
};

struct Extent {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
  void add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value), high = std::max(high, value);
  }
};

bool drawable(const Axis& axis, double value) { return std::isfinite(value) && (!axis.logarithmic || value > 0); }

bool has_zero(const LineChart& chart) {
  if (!chart.y.logarithmic) return false;
  for (const auto& series : chart.series)
    for (double value : series.y)
      if (value == 0) return true;
  return false;
}

Extent x_extent(const LineChart& chart) {
  Extent extent;
  for (const auto& series : chart.series)
    for (double value : series.x)
      if (drawable(chart.x, value)) extent.add(value);
  return extent;
}

// Intervals count too, but on a logarithmic axis not further than a factor of four below the lowest point: an interval that
// reaches almost to 0 would otherwise squeeze everything else.
Extent y_extent(const LineChart& chart) {
  Extent points;
  for (const auto& series : chart.series)
    for (double value : series.y)
      if (drawable(chart.y, value)) points.add(value);
  Extent extent = points;
  for (const auto& series : chart.series) {
    for (double value : series.high)
      if (drawable(chart.y, value)) extent.add(value);
    for (double value : series.low)
      if (drawable(chart.y, value)) extent.add(chart.y.logarithmic ? std::max(value, points.low / 4) : value);
  }
  return extent;
}

class LineChartRenderer final : public Renderer {
 public:
  std::string_view kind() const override { return "line_chart"; }

  double height(const Figure& figure, const Style& style, double width) const override {
    const auto& chart = dynamic_cast<const LineChart&>(figure);
    const LegendSize legend = legend_size(chart, style, width);
    const double plot_width = width - (legend.beside ? legend.width : 0);
    const double body = std::clamp(plot_width * 0.66, 190.0, 400.0);
    if (legend.beside) return std::max(body, legend.height + line_height(style.font(style.label_size)));
    return body + legend.height;
  }

  void paint(const Figure& figure, Canvas& canvas, const QRectF& area) const override {
    const auto& chart = dynamic_cast<const LineChart&>(figure);
    const Layout layout = lay_out(chart, canvas.style, area);
    paint_axes(chart, canvas, layout);
    // Bounds first, so that what is compared with them lies on top.
    for (bool reference : {true, false})
      for (std::size_t i = 0; i < chart.series.size(); ++i)
        if (chart.series[i].reference == reference) paint_series(chart, i, canvas, layout);
    paint_legend(chart, canvas, layout);
  }

 private:
  static int style_index(const LineChart& chart, std::size_t index) {
    if (chart.series[index].style >= 0) return chart.series[index].style;
    int next = 0;
    for (std::size_t i = 0; i < index; ++i)
      if (!chart.series[i].reference && chart.series[i].style < 0) ++next;
    return next;
  }

  static QColor color(const LineChart& chart, std::size_t index, const Style& style) {
    return chart.series[index].reference ? style.ink : to_color(line_color(style_index(chart, index), style.dark));
  }

  static double sample_width(const Style& style) { return style.marker_size * 3.4; }
  static double entry_width(const Series& series, const Style& style) {
    return sample_width(style) + style.space * 0.75 + text_width(series.name, style.font(style.label_size));
  }

  static LegendSize legend_size(const LineChart& chart, const Style& style, double width) {
    LegendSize size;
    if (chart.series.size() < 2 && (chart.series.empty() || chart.series[0].name.empty())) return size;
    const double row = line_height(style.font(style.label_size));
    double widest = 0;
    for (const auto& series : chart.series) widest = std::max(widest, entry_width(series, style));
    size.beside = widest + style.space * 2 < width * 0.36;
    if (size.beside) {
      size.width = widest + style.space * 2;
      size.height = row * static_cast<double>(chart.series.size());
      return size;
    }
    size.width = width;
    const auto columns = legend_columns(chart, style, width);
    const auto rows = (chart.series.size() + columns - 1) / columns;
    size.height = row * static_cast<double>(rows) + style.space;
    return size;
  }

  static std::size_t legend_columns(const LineChart& chart, const Style& style, double width) {
    double widest = 0;
    for (const auto& series : chart.series) widest = std::max(widest, entry_width(series, style));
    return std::max<std::size_t>(1, static_cast<std::size_t>((width + style.space * 2) / (widest + style.space * 2)));
  }

  static Layout lay_out(const LineChart& chart, const Style& style, const QRectF& area) {
    Layout layout;
    const QFont tick_font = style.font(style.tick_size), label_font = style.font(style.label_size);
    const LegendSize legend = legend_size(chart, style, area.width());
    layout.legend_beside = legend.beside;
    QRectF plot = area;
    if (legend.beside) {
      plot.setRight(area.right() - legend.width);
    } else {
      layout.legend = QRectF(area.left(), area.top(), area.width(), legend.height);
      plot.setTop(area.top() + legend.height);
    }
    layout.label_y = plot.top() + ascent(label_font);
    plot.setTop(plot.top() + line_height(label_font) + style.space * 0.75);

    const Extent x = x_extent(chart), y = y_extent(chart);
    layout.x = axis_range(chart.x, x.low, x.high);
    layout.y = axis_range(chart.y, y.low, y.high);
    if (!chart.x.logarithmic && !chart.x.minimum && chart.x.integers && x.low <= x.high) {
      // Whole numbers: half a unit of room at either end instead of a start at 0.
      const double room = std::max(0.35, 0.02 * (x.high - x.low));
      layout.x.low = x.low - room, layout.x.high = x.high + room;
    }

    // Bottom first: it fixes the height, which fixes the number of y ticks, whose width fixes the left edge.
    bool two_lines = false;
    for (const auto& tick : chart.x.ticks) two_lines = two_lines || tick.label.find('\n') != std::string::npos;
    double bottom = line_height(tick_font) * (two_lines ? 2 : 1) + style.space * 0.75;
    if (!chart.x.label.empty()) bottom += line_height(label_font);
    layout.zero_lane = has_zero(chart) ? style.marker_size * 3 : 0;
    plot.setBottom(area.bottom() - bottom - layout.zero_lane);

    const int y_count = std::max(2, static_cast<int>(plot.height() / (style.tick_size * 2.6)));
    layout.y_ticks = !chart.y.ticks.empty() ? chart.y.ticks
                     : chart.y.logarithmic  ? log_ticks(layout.y.low, layout.y.high, y_count)
                                            : linear_ticks(layout.y.low, layout.y.high, y_count, chart.y.integers);
    double left = layout.zero_lane > 0 ? text_width("0", tick_font) : 0;
    for (const auto& tick : layout.y_ticks) left = std::max(left, text_width(tick.label, tick_font));
    plot.setLeft(area.left() + left + style.space * 0.9);
    if (!legend.beside) plot.setRight(plot.right() - style.space);
    if (legend.beside)
      layout.legend = QRectF(plot.right() + style.space * 1.5, plot.top(), legend.width - style.space * 1.5, plot.height());
    layout.plot = plot;
    layout.zero_y = plot.bottom() + layout.zero_lane * 0.55;
    layout.sideways = spread(chart, style, layout);
    make_room(layout, style);
    layout.x_ticks = x_ticks(chart, style, layout);
    return layout;
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
  static std::vector<double> spread(const LineChart& chart, const Style& style, const Layout& layout) {
    std::vector<double> shift(chart.series.size(), 0.0);
    const bool intervals =
        std::any_of(chart.series.begin(), chart.series.end(), [](const Series& series) { return !series.low.empty(); });
    if (!intervals || chart.series.size() < 2) return shift;
    double gap = layout.plot.width();
    for (const auto& series : chart.series)
      for (std::size_t i = 1; i < series.x.size(); ++i)
        gap = std::min(gap, std::abs(layout.px(series.x[i]) - layout.px(series.x[i - 1])));
    const double step = std::min(style.marker_size * 0.5, gap * 0.5 / static_cast<double>(chart.series.size()));
    for (std::size_t i = 0; i < shift.size(); ++i)
      shift[i] = step * (static_cast<double>(i) - static_cast<double>(shift.size() - 1) / 2);
    return shift;
  }

  static void paint_axes(const LineChart& chart, Canvas& canvas, const Layout& layout) {
    const Style& style = canvas.style;
    const QFont tick_font = style.font(style.tick_size), label_font = style.font(style.label_size);
    const double bottom = layout.plot.bottom() + layout.zero_lane;
    canvas.text(layout.plot.left(), layout.label_y, chart.y.label, label_font, style.muted);
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
    bool two_lines = false;
    for (const auto& tick : chart.x.ticks) two_lines = two_lines || tick.label.find('\n') != std::string::npos;
    y += line_height(tick_font) * (two_lines ? 2 : 1);
    canvas.text(layout.plot.center().x(), y + ascent(label_font), chart.x.label, label_font, style.muted, Align::center);
  }

  static void paint_series(const LineChart& chart, std::size_t index, Canvas& canvas, const Layout& layout) {
    const Series& series = chart.series[index];
    const Style& style = canvas.style;
    const QColor ink = color(chart, index, style);
    std::vector<QPointF> points;  // a null point breaks the line
    std::vector<bool> drawn;
    for (std::size_t i = 0; i < series.x.size() && i < series.y.size(); ++i) {
      const double value = series.y[i];
      const bool zero = value == 0 && layout.zero_lane > 0;
      drawn.push_back(drawable(chart.x, series.x[i]) && (zero || drawable(chart.y, value)));
      const double y = zero ? layout.zero_y : drawn.back() ? layout.py(value) : 0;
      points.emplace_back(drawn.back() ? layout.px(series.x[i]) + layout.sideways[index] : 0, y);
    }
    paint_intervals(chart, series, canvas, layout, ink, points, drawn);
    const Qt::PenStyle pen = series.reference                               ? Qt::DashLine
                             : style_index(chart, index) >= num_line_colors ? Qt::DotLine
                                                                            : Qt::SolidLine;
    for (std::size_t i = 1; i < points.size(); ++i)
      if (drawn[i - 1] && drawn[i])
        canvas.line(points[i - 1].x(), points[i - 1].y(), points[i].x(), points[i].y(), ink, style.line_width, pen);
    // Markers only where they do not run together.
    if (points.size() * style.marker_size * 1.3 > layout.plot.width()) return;
    for (std::size_t i = 0; i < points.size(); ++i)
      if (drawn[i])
        canvas.marker(series.reference ? 0 : style_index(chart, index), points[i].x(), points[i].y(), style.marker_size, ink,
                      series.reference);
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

  static void paint_legend(const LineChart& chart, Canvas& canvas, const Layout& layout) {
    const Style& style = canvas.style;
    if (legend_size(chart, style, 1e6).width == 0) return;
    const QFont font = style.font(style.label_size);
    const double row = line_height(font);
    const std::size_t columns = layout.legend_beside ? 1 : legend_columns(chart, style, layout.legend.width());
    double widest = 0;
    for (const auto& series : chart.series) widest = std::max(widest, entry_width(series, style));
    for (std::size_t i = 0; i < chart.series.size(); ++i) {
      const double x = layout.legend.left() + static_cast<double>(i % columns) * (widest + style.space * 2);
      const double y = layout.legend.top() + static_cast<double>(i / columns) * row;
      const double middle = y + row * 0.5, sample = sample_width(style);
      const QColor ink = color(chart, i, style);
      canvas.line(x, middle, x + sample, middle, ink, style.line_width,
                  chart.series[i].reference                  ? Qt::DashLine
                  : style_index(chart, i) >= num_line_colors ? Qt::DotLine
                                                             : Qt::SolidLine);
      canvas.marker(chart.series[i].reference ? 0 : style_index(chart, i), x + sample / 2, middle, style.marker_size, ink,
                    chart.series[i].reference);
      canvas.text(x + sample + style.space * 0.75, middle + style.label_size * 0.36, chart.series[i].name, font, style.ink);
    }
  }
};

}  // namespace

Table LineChart::data() const {
  Table table;
  const bool intervals = std::any_of(series.begin(), series.end(), [](const Series& one) { return !one.low.empty(); });
  table.columns = {"series", x.label.empty() ? "x" : x.label, y.label.empty() ? "y" : y.label};
  if (intervals) table.columns.insert(table.columns.end(), {"low", "high"});
  for (const auto& one : series) {
    for (std::size_t i = 0; i < one.x.size() && i < one.y.size(); ++i) {
      std::vector<std::string> row = {one.name, format_number(one.x[i]), format_number(one.y[i])};
      if (intervals) {
        const bool known = i < one.low.size() && i < one.high.size();
        row.push_back(known ? format_number(one.low[i]) : "");
        row.push_back(known ? format_number(one.high[i]) : "");
      }
      table.rows.push_back(std::move(row));
    }
  }
  return table;
}

const Renderer& line_chart_renderer() {
  static const LineChartRenderer renderer;
  return renderer;
}

}  // namespace kvreplay::figure
