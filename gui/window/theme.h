// Light and dark. The colours are those of the figures (gui/figure/canvas.h), so that a panel and its export agree.
#pragma once

#include <QString>

#include "gui/figure/canvas.h"

namespace kvreplay::gui {

enum class Theme : std::uint8_t { system, light, dark };

// Gives the application its palette and widget style. system: dark where the desktop is. Needs a QApplication.
void apply_theme(Theme theme);
Theme current_theme();
bool is_dark();
// Of the theme that was applied last.
const figure::Style& current_style();

// The two runs' colours everywhere: lines, marks, headings. Told apart in grey and by colour-blind readers, too.
QColor run_color_a();
QColor run_color_b();

}  // namespace kvreplay::gui
