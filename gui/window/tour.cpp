#include "gui/window/tour.h"

#include <QDockWidget>
#include <QEvent>
#include <QHBoxLayout>
#include <QKeyEvent>
#include <QLabel>
#include <QPushButton>
#include <QSettings>
#include <QVBoxLayout>

#include "gui/window/main_window.h"
#include "gui/window/theme.h"

namespace kvreplay::gui {
namespace {

constexpr const char* seen = "tour_seen";

// Panels that this program does not have are left out.
std::vector<Tour::Stop> stops_of(const MainWindow& window) {
  const std::vector<Tour::Stop> all = {
      {"", "Which tokens does an eviction policy throw away?",
       "A model has read a page of prose in which a number is hidden, and was asked for it. This window shows what each "
       "policy "
       "would have thrown out of the model's cache, and what that does to every layer and head."},
      {"runs", "Two runs, side by side",
       "A and B are two policies on the same trace. A click under A or B chooses. Traces, "
       "results and sessions can be dropped anywhere onto this window."},
      {"controls", "Move something", "Another policy, another parameter, half the budget: every picture follows at once."},
      {"token_strip", "The text itself",
       "Each token, kept or evicted. Find the hidden number: did it survive? A click selects "
       "tokens, and every other panel marks them."},
      {"eviction_map", "When each token died",
       "Tokens against heads or layers, for A, B or the difference. The wheel zooms to "
       "single tokens, dragging moves."},
      {"head_grid", "Find the head that breaks", "One cell for each layer and head. A click selects it everywhere."},
      {"why_token", "Why this token?",
       "The score of the selected token, its rank, how close it was to staying, and what its "
       "return would change."},
      {"time_line", "Step by step",
       "Each generated token: what is evicted then, and how far the output is off. Drag, or press "
       "Play."},
      {"", "Keys",
       "Ctrl+K finds every command, ? lists the keys, Alt+Left takes a selection back, Ctrl+E exports a panel. This "
       "tour is in the Help menu."},
  };
  std::vector<Tour::Stop> there;
  for (const Tour::Stop& stop : all)
    if (stop.panel.empty() || window.has_panel(stop.panel)) there.push_back(stop);
  return there;
}

}  // namespace

void Tour::run(MainWindow& window) {
  auto* tour = new Tour(window);
  tour->setAttribute(Qt::WA_DeleteOnClose);
  tour->show();
  tour->raise();
  tour->show_stop(0);
}

void Tour::run_at_first_start(MainWindow& window) {
  if (!QSettings().value(seen, false).toBool()) run(window);
}

Tour::Tour(MainWindow& window)
    : QFrame(&window),
      window_(window),
      stops_(stops_of(window)),
      title_(new QLabel(this)),
      text_(new QLabel(this)),
      count_(new QLabel(this)),
      back_(new QPushButton("Back", this)),
      next_(new QPushButton("Next", this)),
      frame_(new QWidget(&window)) {
  setObjectName("tour");
  setFrameShape(QFrame::Box);
  setAutoFillBackground(true);
  setBackgroundRole(QPalette::Base);
  setFocusPolicy(Qt::StrongFocus);
  setFixedWidth(360);
  next_->setObjectName("tour_next");
  back_->setObjectName("tour_back");
  next_->setDefault(true);
  QFont bold = title_->font();
  bold.setBold(true);
  title_->setFont(bold);
  for (QLabel* label : {title_, text_}) label->setWordWrap(true);
  count_->setForegroundRole(QPalette::PlaceholderText);
  auto* skip = new QPushButton("Skip", this);
  skip->setObjectName("tour_skip");
  auto* buttons = new QHBoxLayout;
  buttons->addWidget(count_);
  buttons->addStretch(1);
  for (QPushButton* button : {skip, back_, next_}) buttons->addWidget(button);
  auto* layout = new QVBoxLayout(this);
  layout->setContentsMargins(14, 12, 14, 12);
  layout->addWidget(title_);
  layout->addWidget(text_);
  layout->addLayout(buttons);
  frame_->setObjectName("tour_frame");
  frame_->setAttribute(Qt::WA_TransparentForMouseEvents);
  frame_->setStyleSheet("#tour_frame { border: 3px solid " + run_color_a().name() + "; }");
  connect(skip, &QPushButton::clicked, this, &Tour::end);
  connect(back_, &QPushButton::clicked, this, [this] { show_stop(stop_ - 1); });
  connect(next_, &QPushButton::clicked, this, [this] { show_stop(stop_ + 1); });
  window.installEventFilter(this);
}

void Tour::show_stop(int stop) {
  if (stop >= static_cast<int>(stops_.size())) return end();
  stop_ = std::max(0, stop);
  const Stop& now = stops_[static_cast<std::size_t>(stop_)];
  if (!now.panel.empty()) window_.show_panel(now.panel);
  title_->setText(now.title);
  text_->setText(now.text);
  count_->setText(QString("%1 of %2").arg(stop_ + 1).arg(stops_.size()));
  back_->setEnabled(stop_ > 0);
  next_->setText(stop_ + 1 == static_cast<int>(stops_.size()) ? "Done" : "Next");
  next_->setFocus();
  place();
}

// Beside what it points at, where there is room, and inside the window.
void Tour::place() {
  setFixedHeight(layout()->totalHeightForWidth(width()));
  const Stop& now = stops_[static_cast<std::size_t>(stop_)];
  frame_->setVisible(!now.panel.empty());
  const QRect inside = window_.rect().adjusted(12, 12, -12, -12);
  QPoint at = inside.center() - QPoint(width() / 2, height() / 2);
  if (!now.panel.empty()) {
    const QWidget& panel = window_.panel(now.panel);
    const QRect target(panel.mapTo(&window_, QPoint(0, 0)), panel.size());
    frame_->setGeometry(target.adjusted(-2, -2, 2, 2));
    frame_->raise();
    const int gap = 10;
    if (target.right() + gap + width() <= inside.right())
      at = {target.right() + gap, target.top()};
    else if (target.left() - gap - width() >= inside.left())
      at = {target.left() - gap - width(), target.top()};
    else if (target.top() - gap - height() >= inside.top())
      at = {target.center().x() - width() / 2, target.top() - gap - height()};
    else
      at = {target.center().x() - width() / 2, target.bottom() - gap - height()};
  }
  at.setX(std::clamp(at.x(), inside.left(), std::max(inside.left(), inside.right() - width())));
  at.setY(std::clamp(at.y(), inside.top(), std::max(inside.top(), inside.bottom() - height())));
  move(at);
  raise();
}

void Tour::end() {
  QSettings().setValue(seen, true);
  frame_->hide();
  frame_->deleteLater();
  close();
}

void Tour::keyPressEvent(QKeyEvent* event) {
  if (event->key() == Qt::Key_Escape)
    end();
  else if (event->key() == Qt::Key_Left)
    show_stop(stop_ - 1);
  else if (event->key() == Qt::Key_Right)
    show_stop(stop_ + 1);
  else
    QFrame::keyPressEvent(event);
}

bool Tour::eventFilter(QObject* object, QEvent* event) {
  if (event->type() == QEvent::Resize) place();
  return QFrame::eventFilter(object, event);
}

}  // namespace kvreplay::gui
