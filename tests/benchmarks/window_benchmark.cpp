// kvreplay_window_benchmark: how long a person waits in front of the real window.
//
//   kvreplay_window_benchmark [TRACE.h5]      without a trace: the bundled one
//
// Prints, in milliseconds: opening the trace until the window knows its texts and sizes, the first picture of the first run,
// and from a moved budget slider or a changed window until run A has the layer on screen, and all of its steps (median and
// worst of 15). Bars: 1,000 to open; 100 on the bundled trace, 250 at 32,768 tokens × 8 heads × 1 layer on two cores.
#include <QApplication>
#include <QElapsedTimer>
#include <QSettings>
#include <QSlider>
#include <QSpinBox>
#include <QStandardPaths>
#include <algorithm>
#include <cstdio>
#include <functional>

#include "gui/window/main_window.h"

namespace kvreplay::gui {
namespace {

constexpr int changes = 15;

double milliseconds_until(const std::function<bool()>& holds) {
  QElapsedTimer timer;
  timer.start();
  while (!holds() && timer.elapsed() < 120000) QApplication::processEvents(QEventLoop::AllEvents, 5);
  return static_cast<double>(timer.nsecsElapsed()) / 1e6;
}

void print(const char* what, std::vector<double> times) {
  std::sort(times.begin(), times.end());
  std::printf("%-44s %8.1f %8.1f\n", what, times[times.size() / 2], times.back());
}

// `change` makes the next value; waits for run A to follow.
void time_changes(MainWindow& window, const char* what, const std::function<void(int)>& change) {
  std::vector<double> first, all;
  Store& store = window.store();
  for (int i = 0; i < changes; ++i) {
    const auto before = store.run_a();
    const int layer = store.selection().layer;
    change(i);
    const auto is_new = [&] { return store.run_a() != before && store.run_a()->spec == *store.spec(Side::a); };
    const double shown = milliseconds_until([&] { return is_new() && store.run_a()->layer(layer) != nullptr; });
    const double rest =
        milliseconds_until([&] { return is_new() && store.run_a()->layer(layer) && store.run_a()->layer(layer)->measured; });
    first.push_back(shown);
    all.push_back(shown + rest);
    milliseconds_until([&] { return store.run_a()->complete; });
  }
  print((std::string(what) + ", first picture").c_str(), first);
  print((std::string(what) + ", all steps of the layer").c_str(), all);
}

void measure(MainWindow& window, const QString& path) {
  Store& store = window.store();
  if (path.isEmpty())
    window.session().open_bundled();
  else
    window.open(path);
  std::printf("%-44s %8s %8s\n", "milliseconds", "median", "worst");
  print("open", {milliseconds_until([&] { return store.document() != nullptr; })});
  print("first picture of run A", {milliseconds_until([&] { return store.run_a() && store.run_a()->layer(0); })});
  milliseconds_until([&] { return store.run_a()->complete && store.run_b() && store.run_b()->complete; });
  auto* slider = window.findChild<QSlider*>("controls_slider");
  time_changes(window, "budget slider", [&](int i) { slider->setValue(300 + 20 * (i % 20)); });
  time_changes(window, "window", [&](int i) { window.findChild<QSpinBox*>("window")->setValue(16 + i); });
}

}  // namespace
}  // namespace kvreplay::gui

int main(int count, char** arguments) {
  if (qEnvironmentVariableIsEmpty("QT_QPA_PLATFORM")) qputenv("QT_QPA_PLATFORM", "offscreen");
  const QApplication application(count, arguments);
  QApplication::setOrganizationName("kvreplay-tests");
  QApplication::setApplicationName("kvreplay-window-benchmark");
  QSettings().clear();
  kvreplay::gui::MainWindow window([] { return kvreplay::make_cpu_backend(); });
  window.resize(1600, 1000);
  window.show();
  kvreplay::gui::measure(window, count > 1 ? QString::fromLocal8Bit(arguments[1]) : QString());
  return 0;
}
