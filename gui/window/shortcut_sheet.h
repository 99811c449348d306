// ?: the keys of every command, from the commands themselves.
#pragma once

#include <QDialog>

namespace kvreplay::gui {

class MainWindow;

class ShortcutSheet final : public QDialog {
  Q_OBJECT

 public:
  static void run(MainWindow& window);
  explicit ShortcutSheet(MainWindow& window);
};

}  // namespace kvreplay::gui
