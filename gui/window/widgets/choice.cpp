#include "gui/window/widgets/choice.h"

#include <QSignalBlocker>
#include <QStandardItemModel>

namespace kvreplay::gui {

Choice::Choice(const QString& object_name, const QString& what, const std::vector<Option>& options, QWidget* parent)
    : QComboBox(parent) {
  setObjectName(object_name);
  setAccessibleName(what);
  setToolTip(what);
  setSizeAdjustPolicy(QComboBox::AdjustToContents);
  setMinimumContentsLength(1);
  set_options(options);
  connect(this, &QComboBox::activated, this, [this] { emit chosen(value()); });
}

std::string Choice::value() const { return currentData().toString().toStdString(); }

void Choice::show_value(const std::string& value) {
  const int at = findData(QString::fromStdString(value));
  const QSignalBlocker blocker(this);
  if (at >= 0) setCurrentIndex(at);
}

void Choice::set_options(const std::vector<Option>& options) {
  bool same = static_cast<int>(options.size()) == count();
  for (int i = 0; same && i < count(); ++i) {
    const Option& option = options[static_cast<std::size_t>(i)];
    same = itemData(i).toString().toStdString() == option.value && itemText(i) == option.label;
  }
  if (same) return;
  const std::string before = value();
  const QSignalBlocker blocker(this);
  clear();
  for (const Option& option : options) {
    addItem(option.label, QString::fromStdString(option.value));
    if (!option.tip.isEmpty()) setItemData(count() - 1, option.tip, Qt::ToolTipRole);
  }
  show_value(before);
}

void Choice::set_unavailable(const std::string& value, const QString& why) {
  auto* items = qobject_cast<QStandardItemModel*>(model());
  const int at = findData(QString::fromStdString(value));
  if (items == nullptr || at < 0) return;
  items->item(at)->setEnabled(why.isEmpty());
  items->item(at)->setToolTip(why);
}

}  // namespace kvreplay::gui
