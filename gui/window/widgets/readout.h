// Two lines that say what is under the pointer. Its size is fixed, so that a new text is a small drawing and no new layout
// of the window, many times a second.
#pragma once

#include <QWidget>

namespace kvreplay::gui {

class Readout final : public QWidget {
  Q_OBJECT

 public:
  Readout(const QString& object_name, QWidget* parent);
  void set_text(const QString& text);
  const QString& text() const { return text_; }

 protected:
  void paintEvent(QPaintEvent* event) override;

 private:
  QString text_;
};

}  // namespace kvreplay::gui
