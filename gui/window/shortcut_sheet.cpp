#include "gui/window/shortcut_sheet.h"

#include <QAction>
#include <QDialogButtonBox>
#include <QLabel>
#include <QVBoxLayout>

#include "gui/window/main_window.h"
#include "gui/window/theme.h"

namespace kvreplay::gui {

void ShortcutSheet::run(MainWindow& window) {
  auto* sheet = new ShortcutSheet(window);
  sheet->setAttribute(Qt::WA_DeleteOnClose);
  sheet->open();
}

ShortcutSheet::ShortcutSheet(MainWindow& window) : QDialog(&window) {
  setObjectName("shortcut_sheet");
  setWindowTitle("Keys");
  QString rows;
  for (const QAction* action : window.all_actions()) {
    if (action->shortcut().isEmpty()) continue;
    rows += "<tr><td style='padding:2px 24px 2px 0'>" + QString(action->text()).remove('&').toHtmlEscaped() +
            "</td><td style='padding:2px 0'><b>" + action->shortcut().toString(QKeySequence::NativeText).toHtmlEscaped() +
            "</b></td></tr>";
  }
  auto* label = new QLabel("<table>" + rows + "</table><p style='color:" + current_style().muted.name() +
                           "'>Ctrl+K finds every command by its name.</p>");
  label->setTextFormat(Qt::RichText);
  auto* buttons = new QDialogButtonBox(QDialogButtonBox::Close);
  connect(buttons, &QDialogButtonBox::rejected, this, &QDialog::reject);
  auto* layout = new QVBoxLayout(this);
  layout->addWidget(label);
  layout->addWidget(buttons);
}

}  // namespace kvreplay::gui
