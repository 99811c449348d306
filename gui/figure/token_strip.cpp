#include "gui/figure/token_strip.h"

#include <QFontMetricsF>
#include <algorithm>
#include <cmath>

#include "core/base/text.h"
#include "gui/figure/axis.h"
#include "gui/figure/renderer.h"

namespace kvreplay::figure {
namespace {

// How strongly a token is kept, as drawn; the key shows the same five.
struct Level {
  const char* name;
  double tint;       // strength of the ground
  double underline;  // thickness in units of the style's line
};
constexpr Level levels[] = {
    {"no head", 0, 0}, {"under 1/3", 0.14, 0.5}, {"1/3 to 2/3", 0.3, 1}, {"over 2/3", 0.5, 1.6}, {"every head", 0.72, 2.4}};

int level_of(float kept) {
  if (!(kept > 0)) return 0;
  if (kept >= 1) return 4;
  return kept < 1.0F / 3 ? 1 : kept <= 2.0F / 3 ? 2 : 3;
}

// A token's text as a line of pieces: what stands before a line end, and whether a line ends after it.
std::vector<std::pair<std::string, bool>> lines_of(const std::string& text) {
  std::vector<std::pair<std::string, bool>> pieces;
  std::string rest = text;
  for (std::size_t at; (at = rest.find('\n')) != std::string::npos; rest = rest.substr(at + 1))
    pieces.emplace_back(printable(rest.substr(0, at)) + "⏎", true);
  if (!rest.empty()) pieces.emplace_back(printable(rest), false);
  return pieces;
}

class TokenStripRenderer final : public Renderer {
 public:
  std::string_view kind() const override { return "token_strip"; }

  double height(const Figure& figure, const Style& style, double width) const override {
    const auto& strip = dynamic_cast<const TokenStrip&>(figure);
    return paint_key(nullptr, strip, style, QRectF(0, 0, width, 0)) + flow(nullptr, strip, style, QRectF(0, 0, width, 0));
  }

  void paint(const Figure& figure, Canvas& canvas, const QRectF& area) const override {
    const auto& strip = dynamic_cast<const TokenStrip&>(figure);
    const double key = paint_key(&canvas, strip, canvas.style, area);
    flow(&canvas, strip, canvas.style, area.adjusted(0, key, 0, 0));
  }

 private:
  static double row_height(const Style& style) { return std::ceil(style.label_size * 1.75); }

  static QColor ground(const Style& style, double tint) {
    const QColor strong = style.dark ? QColor(0x2f, 0x6f, 0xb3) : QColor(0x7f, 0xb8, 0xea);
    const auto mix = [tint](int from, int to) { return static_cast<int>(std::lround(from + tint * (to - from))); };
    return {mix(style.background.red(), strong.red()), mix(style.background.green(), strong.green()),
            mix(style.background.blue(), strong.blue())};
  }

  static void paint_piece(Canvas& canvas, double x, double top, double width, const std::string& text, int level,
                          bool marked) {
    const Style& style = canvas.style;
    const QFont font = style.font(style.label_size);
    const double baseline = top + style.label_size * 1.2, height = style.label_size * 1.42;
    const double rule = style.line_width * 0.6;
    const QColor line = style.dark ? QColor(0x7c, 0xb9, 0xf2) : QColor(0x0b, 0x4f, 0x8f);
    if (level > 0) {
      canvas.rectangle(QRectF(x + 0.5, top, width - 1, height), ground(style, levels[level].tint));
      canvas.rectangle(QRectF(x + 0.5, top + height, width - 1, levels[level].underline * rule), line);
    }
    QColor ink = style.ink;
    if (level == 0) ink = style.dark ? QColor(0x7d, 0x85, 0x8e) : QColor(0x8c, 0x95, 0x9f);
    canvas.text(x, baseline, text, font, ink);
    if (marked)
      canvas.line(x, top - 1, x + width, top - 1, style.dark ? QColor(0xf0, 0x7f, 0x35) : QColor(0xd5, 0x5e, 0x00),
                  style.line_width);
  }

  // Places the tokens one after the other, lines broken between tokens. Returns the height used.
  static double flow(Canvas* canvas, const TokenStrip& strip, const Style& style, const QRectF& area) {
    const QFont font = style.font(style.label_size);
    double x = area.left(), y = area.top() + style.space * 0.5;
    std::string mark;
    for (const auto& token : strip.tokens) {
      for (const auto& [text, ends_line] : lines_of(token.text)) {
        const double width = text_width(text, font);
        if (x > area.left() && x + width > area.right()) x = area.left(), y += row_height(style);
        if (canvas != nullptr) paint_piece(*canvas, x, y, width, text, level_of(token.kept), !token.mark.empty());
        x += width;
        if (ends_line) x = area.left(), y += row_height(style);
      }
    }
    return y + row_height(style) - area.top();
  }

  static double paint_key(Canvas* canvas, const TokenStrip& strip, const Style& style, const QRectF& area) {
    const QFont font = style.font(style.tick_size);
    double y = area.top();
    if (canvas != nullptr) canvas->text(area.left(), y + ascent(font), strip.value_label, font, style.muted);
    y += line_height(font) + style.space * 0.4;
    double x = area.left();
    const auto place = [&](const std::string& text, int level, bool marked) {
      const double width = text_width(text, style.font(style.label_size));
      if (x > area.left() && x + width > area.right()) x = area.left(), y += row_height(style) + style.space * 0.4;
      if (canvas != nullptr) paint_piece(*canvas, x, y, width, text, level, marked);
      x += width + style.space * 1.5;
    };
    for (int level = 0; level < 5; ++level) place(levels[level].name, level, false);
    std::string marks;
    for (const auto& token : strip.tokens)
      if (!token.mark.empty() && marks.find(token.mark) == std::string::npos)
        marks += (marks.empty() ? "" : ", ") + token.mark;
    if (!marks.empty()) place(printable(marks), 2, true);
    return y + row_height(style) + style.space - area.top();
  }
};

}  // namespace

Table TokenStrip::data() const {
  Table table{{"position", "token", "kept", "mark"}, {}};
  for (std::size_t i = 0; i < tokens.size(); ++i)
    table.rows.push_back({std::to_string(first + static_cast<std::int64_t>(i)), printable(tokens[i].text),
                          format_number(tokens[i].kept), tokens[i].mark});
  return table;
}

const Renderer& token_strip_renderer() {
  static const TokenStripRenderer renderer;
  return renderer;
}

}  // namespace kvreplay::figure
