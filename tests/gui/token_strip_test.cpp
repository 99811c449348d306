// Can the text be searched, pointed at and selected, and does it say of every token what the run did to it?
#include <gtest/gtest.h>

#include <QComboBox>
#include <QLabel>
#include <QLineEdit>
#include <QScrollBar>
#include <QTest>
#include <QToolButton>

#include "core/trace/memory_trace.h"
#include "gui/model/text_search.h"
#include "gui/window/widgets/token_view.h"
#include "tests/gui/panel_fixture.h"
#include "tests/unit/replay_reference.h"

namespace kvreplay::gui {
namespace {

// "w0 w1 w2 ..." with a line end after every tenth word, and an é cut in two by tokens 20 and 21.
std::shared_ptr<const Document> worded_document() {
  reference::Shape shape;
  shape.prompt = 180;
  MemoryTraceContents contents = reference::random_contents(shape);
  for (int token = 0; token < shape.prompt + shape.steps; ++token)
    contents.token_texts.push_back("w" + std::to_string(token) + (token % 10 == 9 ? "\n" : " "));
  contents.token_texts[20] = "caf\xc3";
  contents.token_texts[21] = "\xa9 ";
  contents.spans.push_back({30, 33, "needle"});
  return std::make_shared<const Document>(make_memory_trace(std::move(contents)));
}

struct Strip : TwoRuns, testing::Test {
  Strip() : TwoRuns("snapkv:window=8", "restkv:window=8", worded_document()) {
    open("token_strip");
    view = find<TokenView>("token_strip_view");
  }
  void click(std::int64_t token, Qt::KeyboardModifiers keys = {}) {
    QTest::mouseClick(view->viewport(), Qt::LeftButton, keys, view->rectangle_of(token).center().toPoint());
  }
  TokenView* view = nullptr;
};

using Ranges = std::vector<TokenRange>;

TEST(LineIndex, BreaksWhereThereIsNoRoomAndAfterLineEnds) {
  const LineIndex lines({4, 4, 4, 20, 4, 4}, {false, false, true, false, false, false}, 5, 10);
  ASSERT_EQ(lines.num_lines(), 5);
  const std::vector<std::int64_t> first = {0, 2, 3, 4, 5, 6};
  for (std::int64_t line = 0; line <= 5; ++line) EXPECT_EQ(lines.first(line), first[static_cast<std::size_t>(line)]);
  const std::vector<std::int64_t> line_of = {0, 0, 1, 2, 3, 4};
  for (std::int64_t token = 0; token < 6; ++token) EXPECT_EQ(lines.line_of(token), line_of[static_cast<std::size_t>(token)]);
}

TEST(TextSearch, FindsAcrossTokensAndCutCharacters) {
  const auto document = worded_document();
  const TextSearch search(*document);
  EXPECT_EQ(search.find("w4 w5", false).ranges, (Ranges{{4, 6}}));
  EXPECT_EQ(search.find("café", false).ranges, (Ranges{{20, 22}}));
  EXPECT_EQ(search.find("CAFÉ", false).ranges, Ranges{});
  EXPECT_EQ(search.find(R"(\bw1\d\b)", true).ranges.size(), 10U);
  EXPECT_EQ(search.find("w1.", false).ranges, Ranges{});
  EXPECT_FALSE(search.find("(", true).problem.isEmpty());
  EXPECT_TRUE(search.find("(", false).problem.isEmpty());
}

TEST_F(Strip, ClicksSelect) {
  click(12);
  EXPECT_EQ(store.selection().tokens, (Ranges{{12, 13}}));
  click(15, Qt::ShiftModifier);
  EXPECT_EQ(store.selection().tokens, (Ranges{{12, 16}}));
  click(31, Qt::ControlModifier);
  EXPECT_EQ(store.selection().tokens, (Ranges{{12, 16}, {31, 32}}));
  click(13, Qt::ControlModifier);
  EXPECT_EQ(store.selection().tokens, (Ranges{{12, 13}, {14, 16}, {31, 32}}));
}

TEST_F(Strip, ADragSelectsAStretch) {
  const auto at = [&](std::int64_t token) { return view->rectangle_of(token).center().toPoint(); };
  QTest::mousePress(view->viewport(), Qt::LeftButton, {}, at(24));
  for (const std::int64_t token : {23, 18}) QTest::mouseMove(view->viewport(), at(token));
  QTest::mouseRelease(view->viewport(), Qt::LeftButton, {}, at(18));
  EXPECT_EQ(store.selection().tokens, (Ranges{{18, 25}}));
}

TEST_F(Strip, KeysMoveTheSelection) {
  click(12);
  QTest::keyClick(view, Qt::Key_Right);
  EXPECT_EQ(store.selection().tokens, (Ranges{{13, 14}}));
  QTest::keyClick(view, Qt::Key_Right, Qt::ShiftModifier);
  EXPECT_EQ(store.selection().tokens, (Ranges{{13, 15}}));
  QTest::keyClick(view, Qt::Key_End);
  EXPECT_EQ(store.selection().tokens, (Ranges{{185, 186}}));
  EXPECT_TRUE(view->visible().contains(185));
  QTest::keyClick(view, Qt::Key_Down);
  EXPECT_EQ(store.selection().tokens, (Ranges{{185, 186}}));
  QTest::keyClick(view, Qt::Key_Home);
  EXPECT_EQ(store.selection().tokens, (Ranges{{0, 1}}));
}

TEST_F(Strip, SearchingCountsAndGoesToMatches) {
  auto* edit = find<QLineEdit>("token_strip_search");
  auto* count = find<QLabel>("token_strip_count");
  QTest::keyClicks(edit, "w17");
  EXPECT_EQ(count->text(), "1 of 11");  // w17, w170 to w179
  QTest::keyClick(edit, Qt::Key_Return);
  EXPECT_EQ(store.selection().tokens, (Ranges{{17, 18}}));
  QTest::keyClick(edit, Qt::Key_Return);
  EXPECT_EQ(store.selection().tokens, (Ranges{{170, 171}}));
  EXPECT_TRUE(view->visible().contains(170));
  QTest::mouseClick(find<QToolButton>("token_strip_previous"), Qt::LeftButton);
  QTest::mouseClick(find<QToolButton>("token_strip_previous"), Qt::LeftButton);
  EXPECT_EQ(store.selection().tokens, (Ranges{{179, 180}}));
  EXPECT_EQ(count->text(), "11 of 11");
  edit->setText("w[");
  EXPECT_EQ(count->text(), "no match");
  QTest::mouseClick(find<QToolButton>("token_strip_regex"), Qt::LeftButton);
  EXPECT_TRUE(count->text().contains(QChar(0x26a0))) << count->text().toStdString();
}

TEST_F(Strip, FollowsTheSharedStretchAndCarriesIt) {
  panel->resize(300, 200);
  QCoreApplication::processEvents();
  store.set_zoom("tokens", {100, 140});
  panel->refresh_now();
  EXPECT_TRUE(view->visible().contains(100));
  EXPECT_FALSE(view->visible().contains(20));
  view->verticalScrollBar()->setValue(0);
  EXPECT_EQ(store.zoom("tokens", {0, 186}), (Interval{0, 40}));
  store.reset_zoom("tokens");
  panel->refresh_now();
  view->verticalScrollBar()->setValue(3);
  EXPECT_EQ(store.zoom("tokens", {0, 186}), (Interval{0, 186}));
}

TEST_F(Strip, ATableOfEveryTokenSaysWhoKeptIt) {
  store.set_view("token_strip", "runs", "both");
  panel->refresh_now();
  const figure::Table table = panel->table();
  EXPECT_EQ(table.columns, (std::vector<std::string>{"position", "token", "span", "kept_a", "kept_b"}));
  ASSERT_EQ(table.rows.size(), 186U);
  EXPECT_EQ(table.rows[31][2], "needle");
  const auto run = store.run_a();
  int evicted = 0;
  for (std::int64_t token = 0; token < 186; ++token) {
    double kept = 0;
    for (int head = 0; head < 4; ++head) kept += run->kept(0, head, token, 0) ? 0.25 : 0;
    EXPECT_EQ(table.rows[static_cast<std::size_t>(token)][3], std::to_string(kept).substr(0, kept == 0 || kept == 1 ? 1
                                                                                             : kept == 0.5          ? 3
                                                                                                                    : 4));
    evicted += kept == 0 ? 1 : 0;
  }
  EXPECT_GT(evicted, 50);
}

TEST_F(Strip, TheFigureHasTheLinesOnScreen) {
  const auto strip = panel->figure();
  ASSERT_NE(strip, nullptr);
  EXPECT_EQ(strip->kind(), "token_strip");
  EXPECT_EQ(static_cast<std::int64_t>(strip->data().rows.size()), view->visible().end - view->visible().begin);
}

TEST_F(Strip, EveryQuantityIsShownWithItsScale) {
  auto* quantity = find<QComboBox>("token_strip_quantity");
  for (int index = 0; index < quantity->count(); ++index) {
    const std::string name = quantity->itemData(index).toString().toStdString();
    store.set_view("token_strip", "quantity", name);
    panel->refresh_now();
    if (name == "kept") continue;  // its table is another test's
    ASSERT_TRUE(wait_until([&] {
      const figure::Table table = panel->table();
      return table.columns.back() == name &&
             std::any_of(table.rows.begin(), table.rows.end(), [](const auto& row) { return !row.back().empty(); });
    })) << name;
  }
}

}  // namespace
}  // namespace kvreplay::gui
