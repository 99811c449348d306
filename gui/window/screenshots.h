// Pictures of the window and of every panel, light and dark, for the documentation: `kvreplay-gui --screenshots DIR`.
#pragma once

#include <QString>

namespace kvreplay::gui {

class MainWindow;

// Waits until what is open has been evaluated, writes DIR/window-light.png, DIR/PANEL-light.png and the same in dark. Throws
// Error when nothing can be shown, or a picture not be written.
void write_screenshots(MainWindow& window, const QString& folder);

}  // namespace kvreplay::gui
