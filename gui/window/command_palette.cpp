#include "gui/window/command_palette.h"

#include <QAction>
#include <QKeyEvent>
#include <QLineEdit>
#include <QListWidget>
#include <QVBoxLayout>
#include <algorithm>

#include "gui/window/main_window.h"

namespace kvreplay::gui {
namespace {

constexpr int action_role = Qt::UserRole;

QString plain(const QAction* action) { return QString(action->text()).remove('&'); }

}  // namespace

int fuzzy_score(const QString& text, const QString& wanted) {
  int score = 1, at = 0, run = 0;
  for (const QChar letter : wanted) {
    if (letter.isSpace()) continue;
    const int found = static_cast<int>(text.indexOf(letter, at, Qt::CaseInsensitive));
    if (found < 0) return 0;
    const bool starts_word = found == 0 || !text[found - 1].isLetterOrNumber();
    run = found == at && at > 0 ? run + 1 : 0;
    score += 4 + 6 * run + (starts_word ? 8 : 0) - std::min(3, (found - at) / 4);
    at = found + 1;
  }
  return std::max(1, score);
}

void CommandPalette::run(MainWindow& window) {
  auto* palette = new CommandPalette(window);
  palette->setAttribute(Qt::WA_DeleteOnClose);
  palette->open();
}

CommandPalette::CommandPalette(MainWindow& window)
    : QDialog(&window, Qt::Popup), actions_(window.all_actions()), edit_(new QLineEdit(this)), list_(new QListWidget(this)) {
  setObjectName("command_palette");
  edit_->setPlaceholderText("Type a few letters of a command");
  edit_->installEventFilter(this);
  list_->setUniformItemSizes(true);
  auto* layout = new QVBoxLayout(this);
  layout->addWidget(edit_);
  layout->addWidget(list_);
  connect(edit_, &QLineEdit::textChanged, this, &CommandPalette::fill);
  connect(list_, &QListWidget::itemClicked, this, &CommandPalette::trigger);
  fill({});
  resize(520, 420);
  move(window.mapToGlobal(QPoint((window.width() - width()) / 2, window.height() / 8)));
  edit_->setFocus();
}

void CommandPalette::fill(const QString& wanted) {
  list_->clear();
  std::vector<std::pair<int, QAction*>> found;
  for (QAction* action : actions_)
    if (const int score = fuzzy_score(plain(action), wanted); score > 0 && action->isEnabled())
      found.emplace_back(score, action);
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  for (const auto& [score, action] : found) {
    const QString keys = action->shortcut().toString(QKeySequence::NativeText);
    auto* item = new QListWidgetItem(keys.isEmpty() ? plain(action) : plain(action) + "\t" + keys, list_);
    item->setData(action_role, QVariant::fromValue(static_cast<QObject*>(action)));
    item->setToolTip(action->toolTip());
  }
  list_->setCurrentRow(0);
}

void CommandPalette::trigger() {
  const QListWidgetItem* item = list_->currentItem();
  auto* action = item != nullptr ? qobject_cast<QAction*>(item->data(action_role).value<QObject*>()) : nullptr;
  close();
  if (action != nullptr) action->trigger();
}

bool CommandPalette::eventFilter(QObject* object, QEvent* event) {
  if (event->type() == QEvent::KeyPress) {
    const int key = static_cast<QKeyEvent*>(event)->key();
    const int step = key == Qt::Key_Down ? 1 : key == Qt::Key_Up ? -1 : 0;
    if (step != 0) {
      list_->setCurrentRow(std::clamp(list_->currentRow() + step, 0, std::max(0, list_->count() - 1)));
      return true;
    }
    if (key == Qt::Key_Return || key == Qt::Key_Enter) {
      trigger();
      return true;
    }
  }
  return QDialog::eventFilter(object, event);
}

}  // namespace kvreplay::gui
