// Can the window be driven with mouse and keys?
#include "gui/window/main_window.h"

#include <gtest/gtest.h>

#include <QAction>
#include <QApplication>
#include <QDropEvent>
#include <QFile>
#include <QLabel>
#include <QLineEdit>
#include <QListWidget>
#include <QMimeData>
#include <QPushButton>
#include <QSettings>
#include <QSlider>
#include <QSpinBox>
#include <QTest>
#include <QTreeWidget>

#include "gui/window/command_palette.h"
#include "gui/window/tour.h"
#include "gui/window/widgets/step_plot.h"
#include "tests/gui/example.h"

namespace kvreplay::gui {
namespace {

class Window : public testing::Test {
 protected:
  Window() {
    QSettings().clear();
    window = std::make_unique<MainWindow>([] { return make_cpu_backend(); });
    window->show();
  }
  Store& store() { return window->store(); }
  // The example trace as if it had been opened, with two runs.
  void open_example() {
    const int file = store().add_file(FileEntry::Kind::trace, "/nowhere/example.h5");
    store().put_document(file, example_document());
    RunSpec spec;
    spec.trace = file;
    spec.policy = "snapkv";
    spec.budget = "50%";
    Selection selection = store().selection();
    selection.run_a = store().add_run(spec);
    spec.policy = "restkv";
    selection.run_b = store().add_run(spec);
    store().set_selection(selection);
    ASSERT_TRUE(wait_until(
        [&] { return store().run_a() && store().run_a()->complete && store().run_b() && store().run_b()->complete; }));
  }
  template <class Widget>
  Widget* find(const char* name) {
    auto* widget = window->findChild<Widget*>(name);
    EXPECT_NE(widget, nullptr) << name;
    return widget;
  }

  std::unique_ptr<MainWindow> window;
};

TEST_F(Window, MovingTheSliderChangesTheRun) {
  open_example();
  auto* slider = find<QSlider>("controls_slider");
  const auto before = store().run_a();
  QTest::keyClick(slider, Qt::Key_PageUp);
  EXPECT_NE(store().spec(Side::a)->budget, "50%");
  ASSERT_TRUE(wait_until([&] { return store().run_a() != before && store().run_a()->complete; }));
  EXPECT_GT(store().run_a()->info.budget, before->info.budget);
}

TEST_F(Window, AParameterBoxChangesThePolicy) {
  open_example();
  auto* box = find<QSpinBox>("window");
  box->setFocus();
  QTest::keyClick(box, Qt::Key_Up);
  EXPECT_EQ(store().spec(Side::a)->policy, "snapkv:window=33");
}

TEST_F(Window, KeysMoveTheSelection) {
  open_example();
  QTest::keyClick(window.get(), Qt::Key_Down, Qt::ControlModifier);
  EXPECT_EQ(store().selection().layer, 1);
  QTest::keyClick(window.get(), Qt::Key_Right, Qt::ControlModifier);
  EXPECT_EQ(store().selection().step, 1);
  QTest::keyClick(window.get(), Qt::Key_Left, Qt::AltModifier);
  EXPECT_EQ(store().selection().step, 0);
  QTest::keyClick(window.get(), Qt::Key_Right, Qt::AltModifier);
  EXPECT_EQ(store().selection().step, 1);
}

TEST_F(Window, AClickMakesARunBOrTakesItAway) {
  open_example();
  auto* tree = find<QTreeWidget>("runs_tree");
  wait_until([&] { return tree->topLevelItemCount() == 1 && tree->topLevelItem(0)->childCount() == 2; });
  const auto click = [&](int row, int column) {
    const QModelIndex line = tree->model()->index(row, column, tree->model()->index(0, 0));
    QTest::mouseClick(tree->viewport(), Qt::LeftButton, {}, tree->visualRect(line).center());
  };
  const int first = store().state().runs[0].id;
  click(0, 2);
  EXPECT_EQ(store().selection().run_b, first);
  QCoreApplication::processEvents();
  click(0, 2);
  EXPECT_EQ(store().selection().run_b, -1);
}

TEST_F(Window, ThePaletteFindsCommands) {
  open_example();
  QTest::keyClick(window.get(), Qt::Key_K, Qt::ControlModifier);
  auto* palette = find<CommandPalette>("command_palette");
  auto* edit = palette->findChild<QLineEdit*>();
  QTest::keyClicks(edit, "next lay");
  EXPECT_EQ(palette->findChild<QListWidget*>()->currentItem()->text().section('\t', 0, 0), "Next layer");
  QTest::keyClick(edit, Qt::Key_Return);
  EXPECT_EQ(store().selection().layer, 1);
}

TEST_F(Window, TheTimeLineIsScrubbedSteppedAndPlayed) {
  open_example();
  auto* plot = find<StepPlot>("time_line_plot");
  window->panel("time_line").refresh_now();  // the runs may have come in this turn of the event loop
  QTest::mouseClick(plot, Qt::LeftButton, {}, QPoint(plot->width() - 12, plot->height() / 2));
  EXPECT_EQ(store().selection().step, 12);
  QTest::keyClick(plot, Qt::Key_Left);
  EXPECT_EQ(store().selection().step, 11);
  QTest::keyClick(plot, Qt::Key_Home);
  EXPECT_EQ(store().selection().step, 0);
  QAction* play = window->action("time_line_play");
  ASSERT_NE(play, nullptr);
  play->trigger();
  EXPECT_TRUE(wait_until([&] { return store().selection().step >= 2; }));
  play->trigger();
  const int stopped = store().selection().step;
  EXPECT_FALSE(wait_until([&] { return store().selection().step != stopped; }, 1));
}

TEST_F(Window, TheTourGoesThroughThePanelsAndIsRemembered) {
  Tour::run_at_first_start(*window);
  auto* next = find<QPushButton>("tour_next");
  int stops = 0;
  while (window->findChild<Tour*>("tour") != nullptr && window->findChild<Tour*>("tour")->isVisible() && stops < 20) {
    QTest::mouseClick(next, Qt::LeftButton);
    ++stops;
  }
  EXPECT_GE(stops, 4);
  EXPECT_LT(stops, 20);
  QCoreApplication::sendPostedEvents(nullptr, QEvent::DeferredDelete);
  Tour::run_at_first_start(*window);
  EXPECT_EQ(window->findChild<Tour*>("tour"), nullptr);
}

TEST_F(Window, APanelIsExportedWithItsDataAndProvenance) {
  open_example();
  const Folder folder;
  const QString picture = QString::fromStdString((folder.path / "line.svg").string());
  window->export_panel(window->panel("time_line"), picture, 700);
  QFile svg(picture), csv(QString::fromStdString((folder.path / "line.csv").string()));
  ASSERT_TRUE(svg.open(QIODevice::ReadOnly));
  ASSERT_TRUE(csv.open(QIODevice::ReadOnly));
  EXPECT_TRUE(svg.readAll().contains("<svg"));
  const QByteArray table = csv.readAll();
  EXPECT_TRUE(table.contains("# run_a: snapkv@paper")) << table.left(600).toStdString();
  EXPECT_TRUE(table.contains("# trace_identity: "));
}

TEST_F(Window, ADroppedFileIsOpened) {
  const Folder folder;
  const std::string path = (folder.path / "t.h5").string();
  Job job;
  write_synthetic(path, example_parameters(), job);
  QMimeData data;
  data.setUrls({QUrl::fromLocalFile(QString::fromStdString(path))});
  QDragEnterEvent enter(QPoint(100, 100), Qt::CopyAction, &data, Qt::LeftButton, {});
  QApplication::sendEvent(window.get(), &enter);
  EXPECT_TRUE(enter.isAccepted());
  QDropEvent drop(QPointF(100, 100), Qt::CopyAction, &data, Qt::LeftButton, {});
  QApplication::sendEvent(window.get(), &drop);
  ASSERT_TRUE(wait_until([&] { return store().run_b() != nullptr && store().run_b()->complete; }));
  EXPECT_TRUE(QSettings().value("recent").toStringList().contains(QString::fromStdString(path)));
}

TEST_F(Window, WhatIsNoPolicyIsSaidBelowTheFormAndChangesNothing) {
  open_example();
  auto* extra = find<QLineEdit>("controls_extra");
  extra->setFocus();
  QTest::keyClicks(extra, "block=banana");
  QTest::keyClick(extra, Qt::Key_Return);
  auto* problem = find<QLabel>("controls_problem");
  EXPECT_TRUE(problem->text().contains("block")) << problem->text().toStdString();
  EXPECT_EQ(store().spec(Side::a)->policy, "snapkv");
  extra->clear();
  QTest::keyClicks(extra, "block=16");
  QTest::keyClick(extra, Qt::Key_Return);
  EXPECT_EQ(store().spec(Side::a)->policy, "snapkv:block=16");
}

TEST_F(Window, SaysWhatIsWrongWithAFileAndStaysUp) {
  window->open("/nowhere/there.h5");
  ASSERT_TRUE(wait_until([&] { return window->session().idle(); }));
  const int file = store().state().files.front().id;
  EXPECT_NE(store().file_problem(file).find("/nowhere/there.h5"), std::string::npos) << store().file_problem(file);
}

}  // namespace
}  // namespace kvreplay::gui
