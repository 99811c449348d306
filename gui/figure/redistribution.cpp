#include "gui/figure/redistribution.h"

#include <algorithm>
#include <cmath>

#include "core/base/text.h"
#include "gui/figure/axis.h"
#include "gui/figure/renderer.h"

namespace kvreplay::figure {
namespace {

using Bar = RedistributionChart::Bar;
using Section = RedistributionChart::Section;

std::string percent(double share) {
  if (share > 0 && share < 5e-5) return "<0.01 %";
  return number_label(std::round(share * 1e4) / 100, share < 0.1 ? 2 : 3) + " %";
}

std::string value_text(const Bar& bar) {
  return bar.evicted ? percent(bar.before) + " → evicted" : percent(bar.before) + " → " + percent(bar.after);
}

class RedistributionRenderer final : public Renderer {
 public:
  std::string_view kind() const override { return "redistribution"; }

  double height(const Figure& figure, const Style& style, double width) const override {
    const auto& chart = dynamic_cast<const RedistributionChart&>(figure);
    return flow(chart, style, QRectF(0, 0, width, 0), nullptr);
  }

  void paint(const Figure& figure, Canvas& canvas, const QRectF& area) const override {
    flow(dynamic_cast<const RedistributionChart&>(figure), canvas.style, area, &canvas);
  }

 private:
  static QColor after_color(const Style& style) { return to_color(line_color(0, style.dark)); }
  static QColor lost_color(const Style& style) { return to_color(line_color(1, style.dark)); }

  // Draws, or with a null canvas only measures. Returns the height.
  static double flow(const RedistributionChart& chart, const Style& style, const QRectF& area, Canvas* canvas) {
    double y = area.top();
    if (chart.has_factors) y += factors(chart, style, QRectF(area.left(), y, area.width(), 0), canvas);
    if (chart.sections.empty()) return y - area.top();
    y += key(chart, style, QRectF(area.left(), y, area.width(), 0), canvas);
    const double gap = style.space * 3;
    // The first beside the others where two have room.
    const bool beside = chart.sections.size() > 1 && (area.width() - gap) / 2 > style.tick_size * 24;
    const double width = beside ? (area.width() - gap) / 2 : area.width();
    double left_end = y, right_end = y;
    for (std::size_t i = 0; i < chart.sections.size(); ++i) {
      const bool right = beside && i > 0;
      double& at = right ? right_end : left_end;
      at += section(chart.sections[i], style, QRectF(area.left() + (right ? width + gap : 0), at, width, 0), canvas);
    }
    return std::max(left_end, right_end) - style.space - area.top();
  }

  // What one factor shows, its value above its name.
  struct Term {
    std::string value, name;
  };

  static double factors(const RedistributionChart& chart, const Style& style, const QRectF& area, Canvas* canvas) {
    const auto& f = chart.factors;
    const std::vector<Term> terms = {{percent(f.evicted_mass), "evicted attention"},
                                     {"×", ""},
                                     {number_label(f.value_displacement), "value displacement"},
                                     {"÷", ""},
                                     {number_label(f.output_norm), "norm of the output"},
                                     {"=", ""},
                                     {percent(f.error), "error of the output"}};
    const QFont big = style.font(style.title_size, true), small = style.font(style.tick_size);
    const auto width_of = [&](const Term& term) {
      return std::max(text_width(term.value, big), text_width(term.name, small));
    };
    const double row = line_height(big) + line_height(small) + style.space * 0.5;
    double x = area.left(), y = area.top();
    for (std::size_t i = 0; i < terms.size(); ++i) {
      const bool sign = terms[i].name.empty();
      // A sign stays with the number that follows it.
      double needed = width_of(terms[i]);
      if (sign) needed += style.space * 1.5 + width_of(terms[i + 1]);
      if (x > area.left() && x + needed > area.right()) x = area.left(), y += row;
      if (canvas != nullptr) {
        canvas->text(x, y + ascent(big), terms[i].value, sign ? style.font(style.title_size) : big,
                     i + 1 == terms.size() ? lost_color(style)
                     : sign                ? style.muted
                                           : style.ink);
        canvas->text(x, y + line_height(big) + ascent(small), terms[i].name, small, style.muted);
      }
      x += width_of(terms[i]) + style.space * 1.5;
    }
    return y + row + style.space - area.top();
  }

  static double bar_height(const Style& style) { return std::round(style.tick_size * 0.5); }

  static void hollow(Canvas& canvas, const QRectF& bar) {
    if (bar.width() < 0.05) return;
    canvas.painter.setPen(QPen(canvas.style.muted, canvas.style.thin_line));
    canvas.painter.setBrush(canvas.style.background);
    canvas.painter.drawRect(bar);
  }

  static double key(const RedistributionChart& chart, const Style& style, const QRectF& area, Canvas* canvas) {
    const QFont font = style.font(style.tick_size);
    const double height = bar_height(style), row = line_height(font);
    double x = area.left(), y = area.top();
    const auto place = [&](const std::string& text, const QColor* fill) {
      const double width = style.space * 3 + style.space * 0.75 + text_width(text, font);
      if (x > area.left() && x + width > area.right()) x = area.left(), y += row;
      if (canvas != nullptr) {
        const QRectF sample(x, y + (row - height) / 2, style.space * 3, height);
        fill == nullptr ? hollow(*canvas, sample) : canvas->rectangle(sample, *fill);
        canvas->text(x + style.space * 3.75, y + ascent(font), text, font, style.ink);
      }
      x += width + style.space * 2;
    };
    const QColor after = after_color(style);
    place("full cache", nullptr);
    place("after eviction", &after);
    (void)chart;
    return y + row + style.space - area.top();
  }

  static std::string shown_name(const Bar& bar) { return bar.place.empty() ? bar.name : "“" + printable(bar.name) + "”"; }

  static double section(const Section& section, const Style& style, const QRectF& area, Canvas* canvas) {
    const QFont title = style.font(style.label_size, true), font = style.font(style.tick_size);
    double y = area.top();
    for (const auto& line : wrap_text(section.title, title, area.width())) {
      if (canvas != nullptr) canvas->text(area.left(), y + ascent(title), line, title, style.ink);
      y += line_height(title);
    }
    y += style.space * 0.5;
    double names = 0, values = 0, most = 0;
    for (const auto& bar : section.bars) {
      names = std::max({names, text_width(shown_name(bar), font), text_width(bar.place, font)});
      values = std::max(values, text_width(value_text(bar), font));
      most = std::max({most, bar.before, bar.after});
    }
    names = std::min(names, area.width() * 0.36);
    const double left = area.left() + names + style.space;
    const double room = std::max(style.space, area.right() - values - style.space - left);
    const double height = bar_height(style), gap = std::max(1.0, style.space * 0.2);
    const bool places =
        std::any_of(section.bars.begin(), section.bars.end(), [](const Bar& bar) { return !bar.place.empty(); });
    const double row = places ? line_height(font) * 2 + style.space * 0.25
                              : std::max(line_height(font), 2 * height + gap) + style.space * 0.9;
    for (const auto& bar : section.bars) {
      if (canvas != nullptr) {
        const double middle = y + (row - style.space * 0.5) / 2;
        const double baseline = places ? y + ascent(font) : middle + style.tick_size * 0.36;
        canvas->text(area.left(), baseline, elided(shown_name(bar), font, names), font, style.ink);
        if (places)
          canvas->text(area.left(), baseline + line_height(font), elided(bar.place, font, names), font, style.muted);
        const double scale = most > 0 ? room / most : 0;
        hollow(*canvas, QRectF(left, middle - gap / 2 - height, bar.before * scale, height));
        if (!bar.evicted) canvas->rectangle(QRectF(left, middle + gap / 2, bar.after * scale, height), after_color(style));
        canvas->line(left, middle - gap - height, left, middle + gap + height, style.muted, style.thin_line);
        const double end = left + std::max(bar.before, bar.after) * scale + style.space * 0.75;
        canvas->text(end, middle + style.tick_size * 0.36, value_text(bar), font,
                     bar.evicted ? lost_color(style) : style.muted);
      }
      y += row;
    }
    if (section.bars.empty()) {
      if (canvas != nullptr) canvas->text(area.left(), y + ascent(font), "none", font, style.muted);
      y += line_height(font);
    }
    return y + style.space * 1.5 - area.top();
  }
};

}  // namespace

Table RedistributionChart::data() const {
  Table table{{"section", "name", "place", "before", "after"}, {}};
  for (const auto& section : sections)
    for (const auto& bar : section.bars)
      table.rows.push_back({section.title, bar.place.empty() ? bar.name : printable(bar.name), bar.place,
                            format_number(bar.before), format_number(bar.after)});
  if (!has_factors) return table;
  for (const auto& [name, value] : {std::pair<const char*, double>{"evicted_mass", factors.evicted_mass},
                                    {"value_displacement", factors.value_displacement},
                                    {"output_norm", factors.output_norm},
                                    {"head_output_error", factors.error}})
    table.rows.push_back({"factors", name, "", format_number(value), ""});
  return table;
}

const Renderer& redistribution_renderer() {
  static const RedistributionRenderer renderer;
  return renderer;
}

}  // namespace kvreplay::figure
