#include "gui/figure/heat_map.h"

#include <QImage>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

#include "core/base/text.h"
#include "gui/figure/axis.h"
#include "gui/figure/renderer.h"

namespace kvreplay::figure {
namespace {

struct Scale {
  double low = 0, high = 1;
  bool any_missing = false;
  bool any_amount = false;       // something is drawn with the scale
  std::vector<bool> any_states;  // [states] of the map
  double at(double value) const { return high > low ? (value - low) / (high - low) : 0.5; }
};

const MapState* state_of(const HeatMap& map, float value) {
  for (const auto& state : map.states)
    if (state.value == value) return &state;
  return nullptr;
}

QColor state_color(const MapState& state, const Style& style) {
  if (state.strong) return style.ink;
  return style.dark ? QColor(0x2e, 0x34, 0x3b) : QColor(0xe3, 0xe7, 0xeb);
}

QColor amount_color(const HeatMap& map, double position) {
  return to_color(color_at(map.color_map, map.color_start + (1 - map.color_start) * std::clamp(position, 0.0, 1.0)));
}

QColor cell_color(const HeatMap& map, const Scale& scale, const Style& style, float value) {
  if (!std::isfinite(value)) return style.missing;
  if (const MapState* state = state_of(map, value)) return state_color(*state, style);
  return amount_color(map, scale.at(value));
}

Scale color_scale(const HeatMap& map) {
  Scale scale;
  scale.low = std::numeric_limits<double>::infinity(), scale.high = -scale.low;
  scale.any_states.resize(map.states.size());
  for (const auto& panel : map.panels) {
    for (float value : panel.values) {
      const MapState* state = state_of(map, value);
      if (!std::isfinite(value)) {
        scale.any_missing = true;
      } else if (state != nullptr) {
        scale.any_states[static_cast<std::size_t>(state - map.states.data())] = true;
      } else {
        scale.any_amount = true;
        scale.low = std::min<double>(scale.low, value), scale.high = std::max<double>(scale.high, value);
      }
    }
  }
  if (!(scale.low <= scale.high)) scale.low = 0, scale.high = 1;
  if (map.color_map == ColorMap::diverging) {
    scale.high = std::max(std::abs(scale.low), std::abs(scale.high));
    scale.low = -scale.high;
  } else if (scale.low >= 0 && map.states.empty()) {
    scale.low = 0;  // an amount: the dark end means none
  }
  if (map.minimum) scale.low = *map.minimum;
  if (map.maximum) scale.high = *map.maximum;
  if (scale.high <= scale.low) scale.high = scale.low + 1;
  scale.any_amount |= map.states.empty();
  return scale;
}

// A colour of the key that is not on the scale.
struct Swatch {
  std::string label;
  QColor color;
};

std::vector<Swatch> swatches(const HeatMap& map, const Scale& scale, const Style& style) {
  std::vector<Swatch> all;
  for (std::size_t i = 0; i < map.states.size(); ++i)
    if (scale.any_states[i]) all.push_back({map.states[i].label, state_color(map.states[i], style)});
  if (scale.any_missing) all.push_back({"no value", style.missing});
  return all;
}

// Panels in a grid; every length in CSS pixels.
struct Grid {
  int columns = 1, rows = 1;
  double left = 0;  // of the row names
  double panel_width = 0, map_height = 0, panel_height = 0;
  double key_height = 0, marks_height = 0, foot = 0;
};

class HeatMapRenderer final : public Renderer {
 public:
  std::string_view kind() const override { return "heat_map"; }

  double height(const Figure& figure, const Style& style, double width) const override {
    const auto& map = dynamic_cast<const HeatMap&>(figure);
    const Grid grid = lay_out(map, color_scale(map), style, width);
    return grid.key_height + grid.panel_height * grid.rows + grid.foot;
  }

  void paint(const Figure& figure, Canvas& canvas, const QRectF& area) const override {
    const auto& map = dynamic_cast<const HeatMap&>(figure);
    const Scale scale = color_scale(map);
    const Grid grid = lay_out(map, scale, canvas.style, area.width());
    key(map, scale, canvas.style, area, &canvas);
    for (std::size_t i = 0; i < map.panels.size(); ++i) {
      const int column = static_cast<int>(i) % grid.columns, row = static_cast<int>(i) / grid.columns;
      const QRectF place(area.left() + grid.left + column * (grid.panel_width + gap(canvas.style)),
                         area.top() + grid.key_height + row * grid.panel_height, grid.panel_width, grid.panel_height);
      paint_panel(map, map.panels[i], canvas, grid, place, scale, column == 0);
    }
  }

 private:
  static double gap(const Style& style) { return style.space * 1.75; }

  // At most two fifths of the width: a longer name is cut.
  static double names_width(const HeatMap& map, const Style& style, double width) {
    const QFont font = style.font(style.tick_size);
    double widest = text_width(std::to_string(std::max<std::int64_t>(0, row_groups(map) - 1)), font);
    if (titled(map) || labelled(map)) widest = std::max(widest, text_width(map.row_label, font));
    for (const auto& name : map.row_names) widest = std::max(widest, text_width(name, font));
    return std::min(widest + style.space * 0.75, width * 0.4);
  }

  static bool titled(const HeatMap& map) {
    return std::any_of(map.panels.begin(), map.panels.end(), [](const auto& panel) { return !panel.title.empty(); });
  }

  static std::int64_t groups(const HeatMap& map) { return std::max<std::int64_t>(1, map.columns / map.column_group); }

  static std::int64_t row_groups(const HeatMap& map) { return std::max<std::int64_t>(1, map.rows / map.row_group); }

  // With equally many decimals everywhere: two digits of the largest value.
  static std::string number(const HeatMap& map, const Scale& scale, float value) {
    if (state_of(map, value) != nullptr || !std::isfinite(value)) return "";
    const double most = std::max(std::abs(scale.low), std::abs(scale.high));
    const int power = static_cast<int>(std::floor(std::log10(most)));
    const int decimals = power >= 2 ? 0 : power == 1 ? 1 : std::min(9, 2 - std::min(0, power + 1));
    std::array<char, 64> buffer{};
    std::snprintf(buffer.data(), buffer.size(), "%.*f", decimals, std::abs(static_cast<double>(value)));
    const std::string text = buffer.data();
    const bool nothing = text.find_first_of("123456789") == std::string::npos;
    return value < 0 && !nothing ? "−" + text : text;
  }

  // The widest number of a cell, or 0 where the map has none.
  static double numbers_width(const HeatMap& map, const Scale& scale, const Style& style) {
    double widest = 0;
    if (!map.numbers) return widest;
    for (const auto& panel : map.panels)
      for (float value : panel.values)
        widest = std::max(widest, text_width(number(map, scale, value), style.font(style.tick_size)));
    return widest;
  }

  // An untitled map has its row label on a line of its own, or beside the names of the marks.
  static bool labelled(const HeatMap& map) { return !map.row_label.empty() && !titled(map); }

  static Grid lay_out(const HeatMap& map, const Scale& scale, const Style& style, double width) {
    Grid grid;
    const QFont tick_font = style.font(style.tick_size), label_font = style.font(style.label_size);
    grid.left = names_width(map, style, width);
    const double room = width - grid.left;
    const auto panels = std::max<int>(1, static_cast<int>(map.panels.size()));
    // As many side by side as leaves a map room for its title and its cells.
    double narrowest = style.tick_size * 9.0;
    for (const auto& panel : map.panels)
      narrowest = std::max(narrowest, std::min(text_width(panel.title, style.font(style.label_size, true)), room / 4));
    const double wide_cell = std::max(5.0, map.numbers ? numbers_width(map, scale, style) + style.space : 0);
    narrowest =
        std::max(narrowest, std::min<double>(map.numbers ? room : room / 2, static_cast<double>(map.columns) * wide_cell));
    grid.columns = std::clamp(static_cast<int>((room + gap(style)) / (narrowest + gap(style))), 1, panels);
    grid.rows = (panels + grid.columns - 1) / grid.columns;
    grid.columns = (panels + grid.rows - 1) / grid.rows;  // no last row of one where it can be shared out
    grid.panel_width = (room - gap(style) * (grid.columns - 1)) / grid.columns;

    const auto rows = static_cast<double>(std::max<std::int64_t>(1, map.rows));
    const auto columns = static_cast<double>(std::max<std::int64_t>(1, map.columns));
    // Few rows of many columns are not to be a hairline; many rows not to be a page.
    double smallest = std::max(std::min(6.0, 260 / rows), std::min(style.tick_size * 1.3, 150 / rows));
    if ((!map.row_names.empty() && map.row_group == 1) || map.numbers) smallest = style.tick_size * 1.5;
    if (map.row_group > 1) smallest = std::max(smallest, style.tick_size * 1.5 / static_cast<double>(map.row_group));
    const double cell = std::clamp(grid.panel_width / (map.column_group > 1 ? static_cast<double>(groups(map)) : columns),
                                   smallest, std::max(smallest, style.tick_size * 2.2));
    grid.map_height = std::round(cell * rows);
    grid.marks_height = map.marks.empty() && !labelled(map) ? 0 : line_height(tick_font) + style.space * 0.5;
    const double title = titled(map) ? line_height(label_font) + style.space * 0.25 : 0;
    const double below =
        line_height(tick_font) + style.space * 0.5 + (map.column_label.empty() ? 0 : line_height(label_font));
    grid.panel_height = title + grid.marks_height + grid.map_height + below + style.space * 1.25;
    grid.key_height = key(map, scale, style, QRectF(0, 0, width, 0), nullptr);
    grid.foot = -style.space * 1.25;
    return grid;
  }

  // The colour scale: what is shown, the bar, its numbers, and what other colours mean. Returns the height; without a canvas
  // it only measures.
  static double key(const HeatMap& map, const Scale& scale, const Style& style, const QRectF& area, Canvas* canvas) {
    const QFont tick_font = style.font(style.tick_size), label_font = style.font(style.label_size);
    const double left = area.left() + names_width(map, style, area.width());
    const double bar_height = style.tick_size * 0.9;
    double y = area.top() + paragraph_height(map.value_label, label_font, area.right() - left) + style.space * 0.25;
    if (canvas != nullptr) canvas->paragraph(left, area.top(), area.right() - left, map.value_label, label_font, style.ink);
    double x = left;
    if (scale.any_amount) {
      const QRectF bar(left, y, std::min(240.0 * style.tick_size / 12, (area.right() - left) * 0.7), bar_height);
      if (canvas != nullptr) paint_bar(map, scale, *canvas, bar);
      x = bar.right() + style.space * 2;
    }
    // Beside the bar where all of them have room, else below it.
    const std::vector<Swatch> all = swatches(map, scale, style);
    const auto swatch_width = [&](const Swatch& one) {
      return bar_height * 1.4 + style.space * 0.6 + text_width(one.label, tick_font);
    };
    double needed = -style.space * 2;
    for (const auto& one : all) needed += swatch_width(one) + style.space * 2;
    const double below_bar = y + bar_height + style.space * 0.5 + line_height(tick_font);
    double bottom = scale.any_amount ? below_bar : y + line_height(tick_font) - style.space * 0.5;
    if (scale.any_amount && x + needed > area.right()) x = left, y = below_bar + style.space * 0.5;
    for (const auto& one : all) {
      if (x > left && x + swatch_width(one) > area.right()) x = left, y += line_height(tick_font);
      if (canvas != nullptr) {
        canvas->rectangle(QRectF(x, y, bar_height * 1.4, bar_height), one.color);
        canvas->text(x + bar_height * 1.4 + style.space * 0.6, y + bar_height - style.tick_size * 0.1, one.label, tick_font,
                     style.muted);
      }
      x += swatch_width(one) + style.space * 2;
      bottom = std::max(bottom, y + bar_height);
    }
    return bottom + style.space * 1.5 - area.top();
  }

  static void paint_bar(const HeatMap& map, const Scale& scale, Canvas& canvas, const QRectF& bar_area) {
    const Style& style = canvas.style;
    const QFont tick_font = style.font(style.tick_size);
    static constexpr int steps = 256;
    QImage bar(steps, 1, QImage::Format_RGB32);
    for (int i = 0; i < steps; ++i) bar.setPixelColor(i, 0, amount_color(map, (i + 0.5) / steps));
    canvas.painter.drawImage(bar_area, bar);
    const double baseline = bar_area.bottom() + style.space * 0.5 + ascent(tick_font);
    std::vector<Tick> ticks = linear_ticks(scale.low, scale.high, 4);
    // The end of the scale is named too, where there is room.
    if (!ticks.empty() && (1 - scale.at(ticks.back().value)) * bar_area.width() > style.tick_size * 3.2)
      ticks.push_back({scale.high, number_label(scale.high, 2)});
    for (const auto& tick : ticks) {
      const double x = bar_area.left() + scale.at(tick.value) * bar_area.width();
      canvas.line(x, bar_area.bottom(), x, bar_area.bottom() + style.space * 0.4, style.muted, style.thin_line);
      canvas.text(x, baseline, tick.label, tick_font, style.muted, Align::center);
    }
  }

  static QImage to_image(const HeatMap& map, const HeatMap::Panel& panel, const Scale& scale, const Style& style,
                         QSizeF size) {
    // What no screen or printer shows is reduced here, where maxima can be kept. Groups of columns stay whole.
    const double fine = style.cells_a_pixel;
    auto columns = std::min<std::int64_t>(map.columns, static_cast<std::int64_t>(std::max(1.0, size.width() * fine)));
    if (columns < map.columns && map.column_group > 1)
      columns = std::max(columns / groups(map), std::int64_t{1}) * groups(map);
    const auto rows = std::min<std::int64_t>(map.rows, static_cast<std::int64_t>(std::max(1.0, size.height() * fine)));
    const std::vector<float> cells = reduce_matrix(panel.values, map.rows, map.columns, rows, columns, map.reduction);
    // Cells several image pixels wide stay sharp in viewers that smooth images.
    const int wide = std::max(1, static_cast<int>(size.width() * 2 / static_cast<double>(columns)));
    const int high = std::max(1, static_cast<int>(size.height() * 2 / static_cast<double>(rows)));
    QImage image(static_cast<int>(columns) * wide, static_cast<int>(rows) * high, QImage::Format_RGB32);
    std::vector<QRgb> row(static_cast<std::size_t>(image.width()));
    for (std::int64_t y = 0; y < rows; ++y) {
      for (std::int64_t x = 0; x < columns; ++x) {
        const float value = cells[static_cast<std::size_t>(y * columns + x)];
        std::fill_n(row.begin() + x * wide, wide, cell_color(map, scale, style, value).rgb());
      }
      for (int k = 0; k < high; ++k)
        std::copy(row.begin(), row.end(), reinterpret_cast<QRgb*>(image.scanLine(static_cast<int>(y) * high + k)));
    }
    return image;
  }

  static void paint_panel(const HeatMap& map, const HeatMap::Panel& panel, Canvas& canvas, const Grid& grid,
                          const QRectF& place, const Scale& scale, bool first_column) {
    const Style& style = canvas.style;
    const QFont tick_font = style.font(style.tick_size), label_font = style.font(style.label_size);
    double y = place.top();
    if (titled(map)) {
      const QFont bold = style.font(style.label_size, true);
      canvas.text(place.left(), y + ascent(label_font), elided(panel.title, bold, place.width()), bold, style.ink);
      y += line_height(label_font) + style.space * 0.25;
    }
    y += grid.marks_height;
    const QRectF cells(place.left(), y, place.width(), grid.map_height);
    paint_marks(map, canvas, grid, cells);
    if (map.rows > 0 && map.columns > 0 && !panel.values.empty())
      canvas.painter.drawImage(cells, to_image(map, panel, scale, style, cells.size()));
    // Named rows are things of their own, not neighbours on an axis: a line sets them apart.
    if (!map.row_names.empty() || map.row_group > 1)
      for (std::int64_t group = 1; group < row_groups(map); ++group) {
        const double at = cells.top() + cells.height() * static_cast<double>(group) / static_cast<double>(row_groups(map));
        canvas.line(cells.left(), at, cells.right(), at, style.background, style.space * 0.35);
      }
    for (std::int64_t group = 1; map.column_group > 1 && group < groups(map); ++group) {
      const double at = cells.left() + cells.width() * static_cast<double>(group) / static_cast<double>(groups(map));
      canvas.line(at, cells.top(), at, cells.bottom(), style.background, style.space * 0.35);
    }
    if (map.column_group > 1 && map.row_names.empty())
      for (std::int64_t row = 1; row < map.rows; ++row) {
        const double at = cells.top() + cells.height() * static_cast<double>(row) / static_cast<double>(map.rows);
        canvas.line(cells.left(), at, cells.right(), at, style.background, style.space * 0.35);
      }
    const double row_height = cells.height() / static_cast<double>(row_groups(map));
    paint_numbers(map, panel, canvas, cells, scale);
    if (first_column) {
      const auto every =
          std::max<std::int64_t>(1, static_cast<std::int64_t>(std::ceil(style.tick_size * 1.25 / row_height)));
      for (std::int64_t row = 0; row < row_groups(map); row += every) {
        const std::string name = map.row_names.empty() ? std::to_string(row) : map.row_names[static_cast<std::size_t>(row)];
        canvas.text(cells.left() - style.space * 0.6,
                    cells.top() + (static_cast<double>(row) + 0.5) * row_height + style.tick_size * 0.36,
                    elided(name, tick_font, grid.left), tick_font, style.muted, Align::right);
      }
      if (!map.row_label.empty())
        canvas.text(cells.left() - style.space * 0.6, place.top() + ascent(titled(map) ? label_font : tick_font),
                    map.row_label, tick_font, style.muted, Align::right);
    }
    paint_column_ticks(map, canvas, cells);
  }

  static void paint_column_ticks(const HeatMap& map, Canvas& canvas, const QRectF& cells) {
    const Style& style = canvas.style;
    const QFont tick_font = style.font(style.tick_size), label_font = style.font(style.label_size);
    const double baseline = cells.bottom() + style.space * 0.4 + ascent(tick_font);
    const std::int64_t units = map.column_group > 1 ? groups(map) : std::max<std::int64_t>(1, map.columns);
    const double unit_width = cells.width() / static_cast<double>(units);
    std::vector<Tick> ticks;
    const int count = std::max(1, static_cast<int>(cells.width() / (style.tick_size * 4.5)));
    if (map.column_names.empty()) {
      ticks = linear_ticks(map.first_column, map.first_column + static_cast<double>(std::max<std::int64_t>(1, units - 1)),
                           count, true);
      for (auto& tick : ticks) tick.value -= map.first_column;
    } else {
      for (std::int64_t i = 0; i < units; ++i)
        ticks.push_back({static_cast<double>(i), map.column_names[static_cast<std::size_t>(i)]});
    }
    double free_from = -1e9;
    for (const auto& tick : ticks) {
      if (tick.value > static_cast<double>(units - 1)) continue;
      const double x = cells.left() + (tick.value + 0.5) * unit_width;
      canvas.line(x, cells.bottom(), x, cells.bottom() + style.space * 0.35, style.muted, style.thin_line);
      // Numbers at the ends stay within the map.
      const double half = text_width(tick.label, tick_font) / 2;
      const double at = std::clamp(x, std::min(x, cells.left() + std::min(half, unit_width / 2)),
                                   std::max(x - half, cells.right() - half));
      if (!map.column_names.empty() && at - half < free_from) continue;
      free_from = at + half + style.space * 0.75;
      canvas.text(at, baseline, tick.label, tick_font, style.muted, Align::center);
    }
    canvas.text(cells.center().x(), baseline + line_height(label_font),
                elided(map.column_label, tick_font, cells.width() + gap(style)), tick_font, style.muted, Align::center);
  }

  // Where every number of the figure fits into its cell.
  static void paint_numbers(const HeatMap& map, const HeatMap::Panel& panel, Canvas& canvas, const QRectF& cells,
                            const Scale& scale) {
    if (!map.numbers || panel.values.size() != static_cast<std::size_t>(map.rows * map.columns)) return;
    const Style& style = canvas.style;
    const double width = cells.width() / static_cast<double>(map.columns);
    const double height = cells.height() / static_cast<double>(map.rows);
    if (numbers_width(map, scale, style) + style.space * 0.4 > width || style.tick_size * 1.2 > height) return;
    for (std::int64_t row = 0; row < map.rows; ++row)
      for (std::int64_t column = 0; column < map.columns; ++column) {
        const float value = panel.values[static_cast<std::size_t>(row * map.columns + column)];
        const QColor ground = cell_color(map, scale, style, value);
        const Rgb rgb{static_cast<std::uint8_t>(ground.red()), static_cast<std::uint8_t>(ground.green()),
                      static_cast<std::uint8_t>(ground.blue())};
        canvas.text(cells.left() + (static_cast<double>(column) + 0.5) * width,
                    cells.top() + (static_cast<double>(row) + 0.5) * height + style.tick_size * 0.36,
                    number(map, scale, value), style.font(style.tick_size), to_color(ink_on(rgb)), Align::center);
      }
  }

  static void paint_marks(const HeatMap& map, Canvas& canvas, const Grid& grid, const QRectF& cells) {
    const Style& style = canvas.style;
    const QFont font = style.font(style.tick_size);
    double free_from = cells.left();
    const double y = cells.top() - style.space * 0.4;
    for (const auto& mark : map.marks) {
      const double scale = cells.width() / static_cast<double>(std::max<std::int64_t>(1, map.columns));
      const double from = cells.left() + static_cast<double>(mark.begin) * scale;
      const double to = std::max(from + 2, cells.left() + static_cast<double>(mark.end) * scale);
      canvas.line(from, y, to, y, style.ink, style.line_width * 1.5);
      const double width = text_width(mark.label, font);
      const double x = std::clamp((from + to - width) / 2, cells.left(), std::max(cells.left(), cells.right() - width));
      if (x < free_from) continue;  // a bracket without a name, where names would run into each other
      canvas.text(x, cells.top() - grid.marks_height + ascent(font), mark.label, font, style.ink);
      free_from = x + width + style.space;
    }
  }
};

}  // namespace

std::vector<float> reduce_matrix(const std::vector<float>& values, std::int64_t rows, std::int64_t columns,
                                 std::int64_t max_rows, std::int64_t max_columns, Reduction reduction) {
  const std::int64_t out_rows = std::min(rows, std::max<std::int64_t>(1, max_rows));
  const std::int64_t out_columns = std::min(columns, std::max<std::int64_t>(1, max_columns));
  if (out_rows == rows && out_columns == columns) return values;
  const auto cells = static_cast<std::size_t>(out_rows * out_columns);
  std::vector<double> total(cells, 0.0);
  std::vector<float> peak(cells, std::numeric_limits<float>::quiet_NaN());
  std::vector<std::int64_t> count(cells, 0);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      const float value = values[static_cast<std::size_t>(row * columns + column)];
      if (std::isnan(value)) continue;
      const auto cell = static_cast<std::size_t>(row * out_rows / rows * out_columns + column * out_columns / columns);
      total[cell] += value;
      ++count[cell];
      if (!(peak[cell] >= value)) peak[cell] = value;
    }
  }
  if (reduction == Reduction::mean)
    for (std::size_t i = 0; i < cells; ++i)
      if (count[i] > 0) peak[i] = static_cast<float>(total[i] / static_cast<double>(count[i]));
  return peak;
}

Table HeatMap::data() const {
  Table table;
  const auto row_name = [&](std::int64_t row) {
    if (row_group > 1) {
      const std::int64_t group = row / row_group;
      return (row_names.empty() ? std::to_string(group) : row_names[static_cast<std::size_t>(group)]) + "." +
             std::to_string(row % row_group);
    }
    return row_names.empty() ? std::to_string(row) : row_names[static_cast<std::size_t>(row)];
  };
  const auto value = [&](const Panel& panel, std::int64_t row, std::int64_t column) {
    return format_number(panel.values[static_cast<std::size_t>(row * columns + column)]);
  };
  const auto column_name = [&](std::int64_t column) {
    if (column_group > 1) return std::to_string(column / column_group) + "." + std::to_string(column % column_group);
    return column_names.empty() ? std::to_string(column + static_cast<std::int64_t>(first_column))
                                : column_names[static_cast<std::size_t>(column)];
  };
  table.columns.push_back(column_label.empty() ? "column" : column_label);
  if (panels.size() == 1 && !row_names.empty() && column_group == 1 && row_group == 1) {
    // Named rows are series: one column each.
    table.columns.insert(table.columns.end(), row_names.begin(), row_names.end());
    for (std::int64_t column = 0; column < columns; ++column) {
      std::vector<std::string> fields = {column_name(column)};
      for (std::int64_t row = 0; row < rows; ++row) fields.push_back(value(panels[0], row, column));
      table.rows.push_back(std::move(fields));
    }
    return table;
  }
  table.columns.insert(table.columns.begin(), {"panel", row_label.empty() ? "row" : row_label});
  table.columns.push_back(value_label.empty() ? "value" : value_label);
  for (const auto& panel : panels)
    for (std::int64_t row = 0; row < rows; ++row)
      for (std::int64_t column = 0; column < columns; ++column)
        table.rows.push_back({panel.title, row_name(row), column_name(column), value(panel, row, column)});
  return table;
}

const Renderer& heat_map_renderer() {
  static const HeatMapRenderer renderer;
  return renderer;
}

}  // namespace kvreplay::figure
