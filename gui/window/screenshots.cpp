#include "gui/window/screenshots.h"

#include <QApplication>
#include <QDir>
#include <QElapsedTimer>

#include "core/base/error.h"
#include "gui/window/main_window.h"
#include "gui/window/theme.h"

namespace kvreplay::gui {
namespace {

constexpr int patience = 120000;  // milliseconds

bool is_evaluated(const Store& store) {
  for (const Side side : {Side::a, Side::b}) {
    if (store.spec(side) == nullptr) continue;
    const auto run = store.run(side);
    if (run == nullptr || (!run->complete && run->problem.empty())) return false;
  }
  return store.document() != nullptr;
}

void settle(const MainWindow& window, int milliseconds = 200) {
  QElapsedTimer timer;
  timer.start();
  while (timer.elapsed() < milliseconds && window.isVisible()) QApplication::processEvents(QEventLoop::AllEvents, 20);
}

void save(QWidget& widget, const QString& path) {
  if (!widget.grab().save(path)) throw Error(path.toStdString(), "cannot be written");
}

}  // namespace

void write_screenshots(MainWindow& window, const QString& folder) {
  QDir().mkpath(folder);
  QElapsedTimer timer;
  timer.start();
  while (!(window.session().idle() && is_evaluated(window.store()))) {
    if (timer.elapsed() > patience) throw Error("--screenshots", "what is open could not be shown in two minutes");
    settle(window, 50);
  }
  const Theme before = current_theme();
  for (const bool dark : {false, true}) {
    apply_theme(dark ? Theme::dark : Theme::light);
    window.store().announce(Change::theme);
    const QString ending = dark ? "-dark.png" : "-light.png";
    settle(window);
    save(window, folder + "/window" + ending);
    for (const PanelDescription* description : panel_registry()) {
      window.show_panel(description->name);
      settle(window);
      save(window.panel(description->name), folder + "/" + QString::fromStdString(description->name) + ending);
    }
    for (auto description = panel_registry().rbegin(); description != panel_registry().rend(); ++description)
      if ((*description)->shown) window.show_panel((*description)->name);
  }
  apply_theme(before);
}

}  // namespace kvreplay::gui
