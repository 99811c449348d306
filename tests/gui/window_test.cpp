// Can the window be driven with mouse and keys?
#include "gui/window/main_window.h"

#include <gtest/gtest.h>

#include <QAction>
#include <QLineEdit>
#include <QListWidget>
#include <QSettings>
#include <QSlider>
#include <QSpinBox>
#include <QTest>
#include <QTreeWidget>

#include "gui/window/command_palette.h"
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

TEST_F(Window, SaysWhatIsWrongWithAFileAndStaysUp) {
  window->open("/nowhere/there.h5");
  ASSERT_TRUE(wait_until([&] { return window->session().idle(); }));
  const int file = store().state().files.front().id;
  EXPECT_NE(store().file_problem(file).find("/nowhere/there.h5"), std::string::npos) << store().file_problem(file);
}

}  // namespace
}  // namespace kvreplay::gui
