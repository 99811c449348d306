// A few bubbles at the first start that say what the panels answer. Skipped with Esc, never shown again unless asked for.
#pragma once

#include <QFrame>
#include <string>
#include <vector>

class QLabel;
class QPushButton;

namespace kvreplay::gui {

class MainWindow;

class Tour final : public QFrame {
  Q_OBJECT

 public:
  // One bubble: what it points at (a panel's name; empty: the whole window) and what it says.
  struct Stop {
    std::string panel;
    QString title, text;
  };

  // Starts it over the window; it deletes itself when it ends.
  static void run(MainWindow& window);
  // The same, once for each user.
  static void run_at_first_start(MainWindow& window);

  explicit Tour(MainWindow& window);

 protected:
  void keyPressEvent(QKeyEvent* event) override;
  bool eventFilter(QObject* object, QEvent* event) override;

 private:
  void show_stop(int stop);
  void place();
  void end();

  MainWindow& window_;
  std::vector<Stop> stops_;
  int stop_ = 0;
  QLabel *title_, *text_, *count_;
  QPushButton *back_, *next_;
  QWidget* frame_;  // around what the bubble points at
};

}  // namespace kvreplay::gui
