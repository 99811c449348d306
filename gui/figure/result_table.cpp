#include "gui/figure/result_table.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <set>

#include "core/base/text.h"
#include "gui/figure/renderer.h"

namespace kvreplay::figure {
namespace {

std::string fixed(double value, int decimals) {
  std::array<char, 64> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "%.*f", decimals, value);
  return buffer.data();
}

// Three significant digits of the largest value, and two decimals at least where there are fractions.
int decimals_of(const ResultTable& table, std::size_t column) {
  double most = 0;
  bool whole = true;
  for (const auto& row : table.rows) {
    if (column >= row.values.size() || !std::isfinite(row.values[column])) continue;
    most = std::max(most, std::abs(row.values[column]));
    whole = whole && row.values[column] == std::round(row.values[column]);
  }
  if (most == 0 || whole) return 0;
  const int power = static_cast<int>(std::floor(std::log10(most)));
  return power >= 1 ? 2 : power == 0 ? 3 : std::min(9, 2 - power);
}

std::string half_width_text(const ResultTable& table, std::size_t row, std::size_t column) {
  const auto& widths = table.rows[row].half_width;
  if (column >= widths.size() || !std::isfinite(widths[column])) return "";
  return "±" + fixed(widths[column], decimals_of(table, column));
}

// Rows that take part first, then references.
std::vector<std::size_t> row_order(const ResultTable& table) {
  std::vector<std::size_t> order;
  for (bool reference : {false, true})
    for (std::size_t i = 0; i < table.rows.size(); ++i)
      if (table.rows[i].reference == reference) order.push_back(i);
  return order;
}

bool has_groups(const ResultTable& table, std::size_t first, std::size_t end) {
  return std::any_of(table.columns.begin() + static_cast<std::ptrdiff_t>(first),
                     table.columns.begin() + static_cast<std::ptrdiff_t>(end),
                     [](const auto& column) { return !column.group.empty(); });
}

std::string latex_text(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\') {
      out += "\\textbackslash{}";
    } else if (c == '^' || c == '~') {
      out += std::string("\\") + c + "{}";
    } else if (std::string("_%&#${}").find(c) != std::string::npos) {
      out += std::string("\\") + c;
    } else {
      out += c;
    }
  }
  return out;
}

class ResultTableRenderer final : public Renderer {
 public:
  std::string_view kind() const override { return "result_table"; }

  double height(const Figure& figure, const Style& style, double width) const override {
    return flow(dynamic_cast<const ResultTable&>(figure), style, QRectF(0, 0, width, 0), nullptr);
  }

  void paint(const Figure& figure, Canvas& canvas, const QRectF& area) const override {
    flow(dynamic_cast<const ResultTable&>(figure), canvas.style, area, &canvas);
  }

 private:
  static double row_height(const Style& style) { return std::ceil(style.label_size * 1.6); }

  // Room for the widest interval of a column, right of its values; 0 where there are none.
  static double half_width_room(const ResultTable& table, std::size_t column, const Style& style) {
    double widest = 0;
    for (std::size_t row = 0; row < table.rows.size(); ++row)
      widest = std::max(widest, text_width(half_width_text(table, row, column), style.font(style.tick_size)));
    return widest > 0 ? widest + style.space * 0.4 : 0;
  }

  static double column_width_of(const ResultTable& table, std::size_t column, const Style& style) {
    const QFont bold = style.font(style.label_size, true);
    double widest = 0;
    for (const auto& line : title_lines(table, column, style))
      widest = std::max(widest, text_width(line, style.font(style.label_size)));
    const double half = half_width_room(table, column, style);
    for (std::size_t row = 0; row < table.rows.size(); ++row)
      widest = std::max(widest, text_width(table.text(row, column), bold) + half);
    return widest;
  }

  // Long titles are broken between words.
  static std::vector<std::string> title_lines(const ResultTable& table, std::size_t column, const Style& style) {
    return wrap_text(table.columns[column].title, style.font(style.label_size), style.label_size * 7.0);
  }

  static double names_width(const ResultTable& table, const Style& style, double width) {
    double widest = text_width(table.row_label, style.font(style.label_size));
    for (const auto& row : table.rows) widest = std::max(widest, text_width(row.name, style.font(style.label_size)));
    return std::min(widest, width * 0.42);
  }

  // As many columns side by side as have room; the others follow in blocks below, each with the row names again.
  static double flow(const ResultTable& table, const Style& style, const QRectF& area, Canvas* canvas) {
    const double names = names_width(table, style, area.width()), gap = style.space * 2;
    double y = area.top();
    for (std::size_t first = 0, end = 0; first < std::max<std::size_t>(1, table.columns.size()); first = end) {
      double used = names;
      for (end = first; end < table.columns.size(); ++end) {
        const double needed = gap + column_width_of(table, end, style);
        if (end > first && used + needed > area.width()) break;
        used += needed;
      }
      if (first > 0) y += style.space * 2;
      y = block(table, first, end, style, QRectF(area.left(), y, std::min(area.width(), used), 0), names, canvas);
      if (table.columns.empty()) break;
    }
    return y - area.top();
  }

  static double block(const ResultTable& table, std::size_t first, std::size_t end, const Style& style, const QRectF& area,
                      double names, Canvas* canvas) {
    const double row = row_height(style), gap = style.space * 2;
    const QFont font = style.font(style.label_size);
    std::vector<double> right;  // of each column
    double x = area.left() + names;
    for (std::size_t column = first; column < end; ++column)
      right.push_back(x += gap + column_width_of(table, column, style));
    double y = area.top();
    const auto rule = [&](double width) {
      if (canvas != nullptr) canvas->line(area.left(), y, area.right(), y, style.ink, width);
    };
    rule(style.line_width);
    y += style.space * 0.4;
    if (has_groups(table, first, end)) {
      if (canvas != nullptr) paint_groups(table, first, end, right, *canvas, y);
      y += row;
    }
    std::size_t lines = 1;
    for (std::size_t column = first; column < end; ++column)
      lines = std::max(lines, title_lines(table, column, style).size());
    const double titles = line_height(font) * static_cast<double>(lines - 1);
    if (canvas != nullptr) {
      canvas->text(area.left(), baseline(style, y) + titles, table.row_label, font, style.muted);
      for (std::size_t column = first; column < end; ++column) {
        const auto own = title_lines(table, column, style);
        double at = baseline(style, y) + titles - line_height(font) * static_cast<double>(own.size() - 1);
        for (const auto& line : own) {
          canvas->text(right[column - first], at, line, font, style.muted, Align::right);
          at += line_height(font);
        }
      }
    }
    y += row + titles + style.space * 0.2;
    rule(style.thin_line);
    y += style.space * 0.4;
    bool references = false;
    for (std::size_t index : row_order(table)) {
      if (table.rows[index].reference && !references && index != row_order(table).front()) {
        y += style.space * 0.2;
        rule(style.thin_line);
        y += style.space * 0.4;
      }
      references = table.rows[index].reference;
      if (canvas != nullptr)
        paint_row(table, index, first, end, right, names, *canvas, QRectF(area.left(), y, area.width(), row));
      y += row;
    }
    y += style.space * 0.2;
    rule(style.line_width);
    return y + style.space * 0.5;
  }

  static double baseline(const Style& style, double top) { return top + style.label_size * 1.15; }

  static void paint_groups(const ResultTable& table, std::size_t first, std::size_t end, const std::vector<double>& right,
                           Canvas& canvas, double y) {
    const Style& style = canvas.style;
    for (std::size_t begin = first, after = first; begin < end; begin = after) {
      for (after = begin; after < end && table.columns[after].group == table.columns[begin].group; ++after) {
      }
      if (table.columns[begin].group.empty()) continue;
      const double from = right[begin - first] - column_width_of(table, begin, style), to = right[after - 1 - first];
      const QFont font = style.font(style.label_size);
      canvas.text((from + to) / 2, baseline(style, y),
                  elided(table.columns[begin].group, font, std::max(to - from, style.space * 6)), font, style.ink,
                  Align::center);
      canvas.line(from, y + row_height(style) - 1, to, y + row_height(style) - 1, style.muted, style.thin_line);
    }
  }

  static void paint_row(const ResultTable& table, std::size_t row, std::size_t first, std::size_t end,
                        const std::vector<double>& right, double names, Canvas& canvas, const QRectF& place) {
    const Style& style = canvas.style;
    const double y = baseline(style, place.top());
    const QColor color = table.rows[row].reference ? style.muted : style.ink;
    const QFont font = style.font(style.label_size);
    canvas.text(place.left(), y, elided(table.rows[row].name, font, names), font, color);
    for (std::size_t column = first; column < end; ++column) {
      const int rank = table.rank(row, column);
      const QFont own = style.font(style.label_size, rank == 1);
      const std::string text = table.text(row, column), half = half_width_text(table, row, column);
      canvas.text(right[column - first], y, half, style.font(style.tick_size), style.muted, Align::right);
      const double x = right[column - first] - half_width_room(table, column, style);
      canvas.text(x, y, text, own, color, Align::right);
      // Drawn, because an SVG's text has no underline.
      if (rank == 2)
        canvas.line(x - text_width(text, own), y + style.label_size * 0.2, x, y + style.label_size * 0.2, style.ink,
                    style.thin_line);
    }
  }
};

}  // namespace

std::string ResultTable::text(std::size_t row, std::size_t column) const {
  const auto& values = rows[row].values;
  if (column >= values.size() || std::isnan(values[column])) return "–";
  if (std::isinf(values[column])) return values[column] > 0 ? "∞" : "−∞";
  return fixed(values[column], decimals_of(*this, column));
}

int ResultTable::rank(std::size_t row, std::size_t column) const {
  const auto value = [&](std::size_t i) { return column < rows[i].values.size() ? rows[i].values[column] : std::nan(""); };
  if (!columns[column].ranked || rows[row].reference || std::isnan(value(row))) return 0;
  // By what is printed: a difference that no reader sees is none.
  std::set<double> distinct;
  std::size_t taking_part = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].reference || !std::isfinite(value(i))) continue;
    ++taking_part;
    distinct.insert((columns[column].higher_is_better ? -1 : 1) * std::stod(text(i, column)));
  }
  if (taking_part < 2 || distinct.size() < 2 || !std::isfinite(value(row))) return 0;
  const double own = (columns[column].higher_is_better ? -1 : 1) * std::stod(text(row, column));
  if (own == *distinct.begin()) return 1;
  return own == *std::next(distinct.begin()) ? 2 : 0;
}

std::string ResultTable::latex() const {
  std::string out = "% " + printable(title) + "\n";
  if (!subtitle.empty()) out += "% " + printable(subtitle) + "\n";
  for (const auto& [key, value] : provenance) out += "% " + printable(key) + ": " + printable(value) + "\n";
  out += "% \\usepackage{booktabs}\n\\begin{tabular}{l" + std::string(columns.size(), 'r') + "}\n\\toprule\n";
  if (has_groups(*this, 0, columns.size())) {
    std::string rules;
    for (std::size_t begin = 0, end = 0; begin < columns.size(); begin = end) {
      for (end = begin; end < columns.size() && columns[end].group == columns[begin].group; ++end) {
      }
      out += " & \\multicolumn{" + std::to_string(end - begin) + "}{c}{" + latex_text(columns[begin].group) + "}";
      if (!columns[begin].group.empty())
        rules += "\\cmidrule(lr){" + std::to_string(begin + 2) + "-" + std::to_string(end + 1) + "}";
    }
    out += " \\\\\n" + rules + "\n";
  }
  out += latex_text(row_label);
  for (const auto& column : columns) out += " & " + latex_text(column.title);
  out += " \\\\\n\\midrule\n";
  bool references = false;
  for (std::size_t row : row_order(*this)) {
    if (rows[row].reference && !references && row != row_order(*this).front()) out += "\\midrule\n";
    references = rows[row].reference;
    out += latex_text(rows[row].name);
    for (std::size_t column = 0; column < columns.size(); ++column) {
      const std::string shown = text(row, column);
      std::string value = shown == "–" ? "--" : shown == "∞" ? "$\\infty$" : shown == "−∞" ? "$-\\infty$" : shown;
      if (value.starts_with('-') && value != "--") value = "$-$" + value.substr(1);
      const int place = rank(row, column);
      if (place == 1) value = "\\textbf{" + value + "}";
      if (place == 2) value = "\\underline{" + value + "}";
      const std::string half = half_width_text(*this, row, column);
      out += " & " + value + (half.empty() ? "" : " {\\scriptsize$\\pm$" + half.substr(std::string("±").size()) + "}");
    }
    out += " \\\\\n";
  }
  return out + "\\bottomrule\n\\end{tabular}\n";
}

Table ResultTable::data() const {
  Table table{{row_label.empty() ? "row" : row_label}, {}};
  const bool intervals = std::any_of(rows.begin(), rows.end(), [](const Row& row) { return !row.half_width.empty(); });
  for (const auto& column : columns) {
    const std::string name = column.group.empty() ? column.title : column.group + ", " + column.title;
    table.columns.push_back(name);
    if (intervals) table.columns.push_back(name + ", half of the interval");
  }
  for (std::size_t index : row_order(*this)) {
    std::vector<std::string> fields = {rows[index].name};
    for (std::size_t column = 0; column < columns.size(); ++column) {
      const auto field = [&](const std::vector<double>& values) {
        return column < values.size() && !std::isnan(values[column]) ? format_number(values[column]) : "";
      };
      fields.push_back(field(rows[index].values));
      if (intervals) fields.push_back(field(rows[index].half_width));
    }
    table.rows.push_back(std::move(fields));
  }
  return table;
}

const Renderer& result_table_renderer() {
  static const ResultTableRenderer renderer;
  return renderer;
}

}  // namespace kvreplay::figure
