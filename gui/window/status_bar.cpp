#include "gui/window/status_bar.h"

#include <QHBoxLayout>
#include <QLabel>
#include <QProgressBar>
#include <QTimer>
#include <QToolButton>

#include "core/base/text.h"

namespace kvreplay::gui {
namespace {

constexpr int fade_after = 8000;  // milliseconds

}  // namespace

StatusBar::StatusBar(QWidget* parent)
    : QStatusBar(parent),
      text_(new QLabel(this)),
      close_(new QToolButton(this)),
      task_(new QLabel(this)),
      bar_(new QProgressBar(this)),
      cancel_(new QToolButton(this)),
      place_(new QLabel(this)),
      fade_(new QTimer(this)) {
  text_->setObjectName("status_text");
  text_->setTextInteractionFlags(Qt::TextSelectableByMouse);
  // A long message must not widen the window: its whole text is in the tooltip.
  text_->setSizePolicy(QSizePolicy::Ignored, QSizePolicy::Preferred);
  close_->setObjectName("status_close");
  close_->setText(QString(QChar(0x00d7)));
  close_->setAutoRaise(true);
  close_->setToolTip("Close this message");
  task_->setObjectName("status_task");
  bar_->setObjectName("status_progress");
  bar_->setRange(0, 1000);
  bar_->setFixedWidth(140);
  bar_->setTextVisible(false);
  cancel_->setObjectName("status_cancel");
  cancel_->setText("Cancel");
  place_->setObjectName("status_place");
  addWidget(text_, 1);
  addWidget(close_);
  addPermanentWidget(task_);
  addPermanentWidget(bar_);
  addPermanentWidget(cancel_);
  addPermanentWidget(place_);
  fade_->setSingleShot(true);
  connect(fade_, &QTimer::timeout, this, [this] { show_text({}, false); });
  connect(close_, &QToolButton::clicked, this, [this] { show_text({}, false); });
  connect(cancel_, &QToolButton::clicked, this, &StatusBar::cancel_requested);
  show_text({}, false);
  show_progress({});
}

void StatusBar::show_text(const QString& text, bool error) {
  text_->setText((error ? QString(QChar(0x26a0)) + " " : QString()) + text);
  text_->setToolTip(text);
  QFont font = text_->font();
  font.setBold(error);
  text_->setFont(font);
  close_->setVisible(error);
  fade_->stop();
  if (!error && !text.isEmpty()) fade_->start(fade_after);
}

void StatusBar::show_progress(const Progress& progress) {
  for (QWidget* widget : {static_cast<QWidget*>(task_), static_cast<QWidget*>(bar_), static_cast<QWidget*>(cancel_)})
    widget->setVisible(progress.working);
  if (!progress.working) return;
  QString text = progress.task + " · " + QString::fromStdString(format_seconds(progress.seconds_spent));
  if (progress.seconds_left >= 0) text += ", " + QString::fromStdString(format_seconds(progress.seconds_left)) + " left";
  task_->setText(text);
  bar_->setValue(static_cast<int>(progress.share * 1000));
}

void StatusBar::show_place(const QString& text) { place_->setText(text); }

}  // namespace kvreplay::gui
