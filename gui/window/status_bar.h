// The bottom line: what just happened or went wrong, what is being worked on, how long it will take, and how to stop it.
#pragma once

#include <QStatusBar>

#include "gui/model/evaluator.h"

class QLabel;
class QProgressBar;
class QToolButton;

namespace kvreplay::gui {

class StatusBar final : public QStatusBar {
  Q_OBJECT

 public:
  explicit StatusBar(QWidget* parent);
  // An error stays until it is closed or another message comes, anything else for some seconds.
  void show_text(const QString& text, bool error);
  void show_progress(const Progress& progress);
  // What is selected: always there, on the right.
  void show_place(const QString& text);

 signals:
  void cancel_requested();

 private:
  QLabel* text_;
  QToolButton* close_;
  QLabel* task_;
  QProgressBar* bar_;
  QToolButton* cancel_;
  QLabel* place_;
  QTimer* fade_;
};

}  // namespace kvreplay::gui
