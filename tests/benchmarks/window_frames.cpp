// Frames of the real window while someone pans, zooms and points at a map of 131,072 tokens × 32 heads, B - A; how long its
// pyramid takes to build, and all layers' (1,024 rows). A program of its own: frames are counted one by one, for their 99th
// percentile.
//
//   QT_QPA_PLATFORM=offscreen build/dev/bin/kvreplay_window_frames [--frames N] [--scale 2]
//
// A frame is everything between an event and the finished picture, in the window's thread: the event, what the store tells
// all visible panels, and the drawing. Times are this thread's CPU time, so that a busy machine does not change them, and
// wall time beside it.
#include <QApplication>
#include <QDockWidget>
#include <QElapsedTimer>
#include <QSettings>
#include <QStandardPaths>
#include <QTest>
#include <QWheelEvent>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <random>

#include "core/backend/backend.h"
#include "core/trace/memory_trace.h"
#include "gui/model/eviction_matrix.h"
#include "gui/window/main_window.h"
#include "gui/window/widgets/matrix_view.h"

namespace kvreplay::gui {
namespace {

constexpr std::int64_t prompt = 131072, steps = 64, tokens = prompt + steps;
constexpr int heads = 32;

double cpu_milliseconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) * 1e-6;
}

// Of one layer, with keys of two dimensions: large in tokens alone.
std::unique_ptr<Trace> long_trace() {
  MemoryTraceContents contents;
  contents.model.name = "long";
  contents.model.num_layers = 1;
  contents.model.num_query_heads = heads;
  contents.model.num_kv_heads = heads;
  contents.model.head_dim = 2;
  contents.model.hidden_size = 2 * heads;
  contents.model.attention_scale = 1;
  contents.prompt_length = prompt;
  for (std::int64_t i = 0; i < tokens; ++i) {
    contents.token_ids.push_back(static_cast<std::int32_t>(i % 1000));
    contents.token_texts.push_back("word" + std::to_string(i % 1000) + " ");
  }
  for (std::int64_t i = prompt; i < tokens; ++i) contents.query_positions.push_back(static_cast<std::int32_t>(i));
  contents.spans = {{40000, 40016, "needle"}, {131000, 131040, "question"}};
  contents.tensors[{0, LayerDataset::key}] = Tensor<float, 3>({heads, tokens, 2}, 0.1F);
  contents.tensors[{0, LayerDataset::value}] = Tensor<float, 3>({heads, tokens, 2}, 0.1F);
  contents.tensors[{0, LayerDataset::query}] = Tensor<float, 3>({heads, steps, 2}, 0.1F);
  return make_memory_trace(std::move(contents));
}

std::shared_ptr<Run> random_run(const RunSpec& spec, int layers, unsigned seed) {
  auto run = std::make_shared<Run>();
  run->spec = spec;
  run->label = spec.policy;
  run->query_heads = run->rows = heads;
  run->granularity = Granularity::query_head;
  run->tokens = tokens, run->prompt = prompt, run->steps = steps;
  run->complete = true;
  std::mt19937 random(seed);
  for (int i = 0; i < layers; ++i) {
    auto evictions = std::make_shared<LayerEvictions>();
    evictions->evicted_at = Tensor<std::int32_t, 2>({heads, tokens}, -1);
    for (int head = 0; head < heads; ++head)
      for (std::int64_t token = 0; token < prompt; ++token)
        evictions->evicted_at(head, token) = random() % 10 == 0   ? -1
                                             : random() % 20 == 0 ? static_cast<int>(random() % 64)
                                                                  : 0;
    auto layer = std::make_shared<RunLayer>();
    layer->evictions = std::move(evictions);
    layer->measured = true;
    run->layers.push_back(std::move(layer));
  }
  return run;
}

struct Times {
  std::vector<double> cpu, wall;
  void add(const std::function<void()>& frame) {
    const double before = cpu_milliseconds();
    QElapsedTimer timer;
    timer.start();
    frame();
    wall.push_back(static_cast<double>(timer.nsecsElapsed()) * 1e-6);
    cpu.push_back(cpu_milliseconds() - before);
  }
  void print(const char* what) {
    std::sort(cpu.begin(), cpu.end());
    std::sort(wall.begin(), wall.end());
    const auto at = [](const std::vector<double>& sorted, double share) {
      return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1))];
    };
    std::printf("%-28s %6zu   %7.2f %7.2f %7.2f   %7.2f %7.2f\n", what, cpu.size(), at(cpu, 0.5), at(cpu, 0.99), cpu.back(),
                at(wall, 0.5), at(wall, 0.99));
  }
};

void build_pyramids() {
  const auto a = random_run({}, 32, 1), b = random_run({}, 32, 2);
  for (const MapRows rows : {MapRows::heads, MapRows::all}) {
    for (const MapQuantity quantity : {MapQuantity::kept, MapQuantity::lifetime}) {
      Times times;
      for (int i = 0; i < (rows == MapRows::heads ? 20 : 2); ++i)
        times.add([&] {
          const auto matrix =
              std::make_shared<const EvictionMatrix>(MapRequest{a, b, quantity, rows, MapRuns::difference, 0, 0});
          const Pyramid pyramid(matrix, matrix->reduction());
        });
      const std::string name = "pyramid 131,136 x " + std::to_string(rows == MapRows::heads ? heads : 32 * heads) +
                               (quantity == MapQuantity::kept ? " kept" : " steps");
      times.print(name.c_str());
    }
  }
}

void wheel(MatrixView& view, QPoint at, int notches) {
  QWheelEvent event(at, view.viewport()->mapToGlobal(at), {}, {0, 120 * notches}, Qt::NoButton, {}, Qt::NoScrollPhase,
                    false);
  QCoreApplication::sendEvent(view.viewport(), &event);
}

// Everything that waits: the store's changes, and the drawing.
void finish_frame(QWidget& window) {
  QCoreApplication::sendPostedEvents();
  QCoreApplication::processEvents();
  // Now, not when the platform's timer says so: all that was marked for drawing is drawn.
  QEvent update(QEvent::UpdateRequest);
  QCoreApplication::sendEvent(&window, &update);
}

void drive(MainWindow& window, MatrixView& view, int frames) {
  std::mt19937 random(7);
  const MatrixGeometry geometry = view.geometry_now();
  const auto inside = [&] {
    return QPoint(geometry.map.left() + static_cast<int>(random() % static_cast<unsigned>(geometry.map.width() - 2)) + 1,
                  geometry.map.top() + static_cast<int>(random() % static_cast<unsigned>(geometry.map.height() - 2)) + 1);
  };
  Times pan, zoom, hover, all;
  for (int i = 0; i < frames; ++i) {
    // In and out again over every zoom, at places that move.
    const QPoint at = inside();
    const bool in = i / 40 % 2 == 0;
    zoom.add([&] { wheel(view, at, in ? 1 : -1), finish_frame(window); });
    const QPoint from(geometry.map.center()), to = from + QPoint(static_cast<int>(random() % 120) - 60, 0);
    QTest::mousePress(view.viewport(), Qt::LeftButton, {}, from);
    pan.add([&] { QTest::mouseMove(view.viewport(), to), finish_frame(window); });
    QTest::mouseRelease(view.viewport(), Qt::LeftButton, {}, to);
    const QPoint pointed = inside();
    hover.add([&] { QTest::mouseMove(view.viewport(), pointed), finish_frame(window); });
  }
  for (const Times* times : {&zoom, &pan, &hover}) {
    all.cpu.insert(all.cpu.end(), times->cpu.begin(), times->cpu.end());
    all.wall.insert(all.wall.end(), times->wall.begin(), times->wall.end());
  }
  zoom.print("zoom");
  pan.print("pan");
  hover.print("hover");
  all.print("all frames");
}

int run(int frames) {
  std::printf("%-28s %6s   %7s %7s %7s   %7s %7s\n", "milliseconds", "times", "median", "99 %", "most", "median", "99 %");
  std::printf("%-28s %6s   %23s   %15s\n", "", "", "of this thread's CPU", "wall");
  build_pyramids();
  QSettings().clear();
  QSettings().setValue("theme", 1);
  MainWindow window([] { return make_cpu_backend(); });
  window.resize(1600, 1000);
  window.show();
  Store& store = window.store();
  const int file = store.add_file(FileEntry::Kind::trace, "<memory>");
  store.put_document(file, std::make_shared<const Document>(long_trace()));
  Selection selection = store.selection();
  for (int* side : {&selection.run_a, &selection.run_b}) {
    RunSpec spec;
    spec.trace = file;
    spec.policy = "random:seed=" + std::to_string(side == &selection.run_a ? 1 : 2);
    spec.budget = "10%";
    spec.id = *side = store.add_run(spec);
  }
  store.set_selection(selection);
  window.session().evaluator().cancel();  // the runs are made up
  for (const int id : {selection.run_a, selection.run_b})
    store.put_run(id, random_run(*store.state().run(id), 1, static_cast<unsigned>(id)));
  store.set_view("eviction_map", "runs", "difference");
  window.show_panel("eviction_map");
  auto* view = window.panel("eviction_map").findChild<MatrixView*>("eviction_map_view");
  QElapsedTimer waited;
  waited.start();
  while (waited.elapsed() < 30000 &&
         (view->content().rows != heads || window.panel("eviction_map").property("busy").toBool()))
    QCoreApplication::processEvents(QEventLoop::AllEvents, 20);
  QTest::qWait(500);
  std::printf("map of %d × %d pixels, %.0f tokens × %.0f heads\n", view->geometry_now().map.width(),
              view->geometry_now().map.height(), view->content().columns, view->content().rows);
  drive(window, *view, frames);
  return view->content().rows == heads ? 0 : 1;
}

}  // namespace
}  // namespace kvreplay::gui

int main(int count, char** arguments) {
  int frames = 400;
  for (int i = 1; i + 1 < count; ++i) {
    if (std::strcmp(arguments[i], "--frames") == 0) frames = std::max(1, std::atoi(arguments[i + 1]));
    if (std::strcmp(arguments[i], "--scale") == 0) qputenv("QT_SCALE_FACTOR", arguments[i + 1]);
  }
  if (qEnvironmentVariableIsEmpty("QT_QPA_PLATFORM")) qputenv("QT_QPA_PLATFORM", "offscreen");
  QApplication application(count, arguments);
  QApplication::setOrganizationName("kvreplay-tests");
  QApplication::setApplicationName("kvreplay-window-frames");
  QStandardPaths::setTestModeEnabled(true);
  return kvreplay::gui::run(frames);
}
