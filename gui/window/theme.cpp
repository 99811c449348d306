#include "gui/window/theme.h"

#include <QApplication>
#include <QPalette>
#include <QStyleFactory>

namespace kvreplay::gui {
namespace {

struct Applied {
  Theme theme = Theme::light;
  bool dark = false;
  figure::Style style = figure::make_style(figure::Medium::screen, false);
};

Applied& applied() {
  static Applied instance;
  return instance;
}

QColor mixed(const QColor& a, const QColor& b, double share) {
  const auto mix = [share](int x, int y) { return static_cast<int>(x + (y - x) * share); };
  return {mix(a.red(), b.red()), mix(a.green(), b.green()), mix(a.blue(), b.blue())};
}

QPalette palette_of(const figure::Style& style) {
  const QColor window = mixed(style.background, style.grid, style.dark ? 0.35 : 0.45), accent = run_color_a();
  const QColor button = mixed(style.background, style.grid, style.dark ? 0.8 : 0.25);
  QPalette palette;
  palette.setColor(QPalette::Window, window);
  palette.setColor(QPalette::Base, style.background);
  palette.setColor(QPalette::AlternateBase, mixed(style.background, style.grid, 0.3));
  palette.setColor(QPalette::Button, button);
  for (const auto role : {QPalette::WindowText, QPalette::Text, QPalette::ButtonText}) palette.setColor(role, style.ink);
  palette.setColor(QPalette::PlaceholderText, style.muted);
  palette.setColor(QPalette::ToolTipBase, style.background);
  palette.setColor(QPalette::ToolTipText, style.ink);
  palette.setColor(QPalette::Highlight, accent);
  palette.setColor(QPalette::HighlightedText, figure::to_color(figure::ink_on({static_cast<std::uint8_t>(accent.red()),
                                                                               static_cast<std::uint8_t>(accent.green()),
                                                                               static_cast<std::uint8_t>(accent.blue())})));
  palette.setColor(QPalette::Link, accent);
  palette.setColor(QPalette::Light, mixed(button, Qt::white, style.dark ? 0.1 : 0.6));
  palette.setColor(QPalette::Midlight, mixed(button, Qt::white, style.dark ? 0.05 : 0.3));
  palette.setColor(QPalette::Mid, style.grid);
  palette.setColor(QPalette::Dark, mixed(style.grid, Qt::black, 0.3));
  palette.setColor(QPalette::Shadow, mixed(style.grid, Qt::black, 0.6));
  for (const auto role : {QPalette::WindowText, QPalette::Text, QPalette::ButtonText, QPalette::HighlightedText})
    palette.setColor(QPalette::Disabled, role, mixed(style.muted, window, 0.35));
  palette.setColor(QPalette::Disabled, QPalette::Highlight, style.grid);
  return palette;
}

}  // namespace

void apply_theme(Theme theme) {
  static const bool desktop_is_dark = QApplication::palette().color(QPalette::Window).lightness() < 128;
  Applied& now = applied();
  now.theme = theme;
  now.dark = theme == Theme::dark || (theme == Theme::system && desktop_is_dark);
  now.style = figure::make_style(figure::Medium::screen, now.dark);
  QApplication::setStyle(QStyleFactory::create("Fusion"));
  QApplication::setPalette(palette_of(now.style));
  QFont font = now.style.font(now.style.label_size);
  QApplication::setFont(font);
}

Theme current_theme() { return applied().theme; }
bool is_dark() { return applied().dark; }
const figure::Style& current_style() { return applied().style; }

QColor run_color_a() { return figure::to_color(figure::line_color(0, is_dark())); }
QColor run_color_b() { return figure::to_color(figure::line_color(1, is_dark())); }

}  // namespace kvreplay::gui
