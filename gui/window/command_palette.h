// Ctrl+K: every command of the window by a few letters of its name.
#pragma once

#include <QDialog>

class QAction;
class QLineEdit;
class QListWidget;

namespace kvreplay::gui {

class MainWindow;

class CommandPalette final : public QDialog {
  Q_OBJECT

 public:
  // Shows it over the window; it deletes itself.
  static void run(MainWindow& window);

  explicit CommandPalette(MainWindow& window);

 protected:
  bool eventFilter(QObject* object, QEvent* event) override;

 private:
  void fill(const QString& wanted);
  void trigger();

  QList<QAction*> actions_;
  QLineEdit* edit_;
  QListWidget* list_;
};

// How well `text` fits what was typed: its letters in order, the closer together and the earlier the better. 0: not at all.
int fuzzy_score(const QString& text, const QString& wanted);

}  // namespace kvreplay::gui
