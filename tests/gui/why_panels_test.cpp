// Do the panels Why this token and Redistribution say what the model says, and lead on from there?
#include <gtest/gtest.h>

#include <QComboBox>
#include <QLabel>
#include <QTest>
#include <QTreeWidget>

#include "gui/figure/redistribution.h"
#include "gui/model/explain.h"
#include "gui/model/redistribution.h"
#include "tests/gui/panel_fixture.h"

namespace kvreplay::gui {
namespace {

struct Panels : TwoRuns, testing::Test {
  Panels() : TwoRuns("snapkv:window=16", "restkv:window=16") {}
  // An evicted token of run A's first row.
  std::int64_t evicted_token() const {
    for (std::int64_t token = 20;; ++token)
      if (!store.run_a()->kept(0, 0, token, 0)) return token;
  }
  void choose(std::vector<int> heads, int step) {
    Selection selection = store.selection();
    selection.heads = std::move(heads);
    selection.step = step;
    store.set_selection(selection);
    panel->refresh_now();
  }
};

TEST_F(Panels, WhyAsksForAToken) {
  open("why_token");
  EXPECT_TRUE(find<QLabel>("message")->isVisible());
  EXPECT_TRUE(find<QLabel>("message")->text().contains("No token is selected"));
  EXPECT_EQ(panel->figure(), nullptr);
  EXPECT_TRUE(panel->table().columns.empty());
}

TEST_F(Panels, WhyTellsRankTermsAndEffects) {
  const std::int64_t token = evicted_token();
  open("why_token");
  store.select_tokens({{token, token + 1}});
  choose({1}, 2);
  const figure::Table table = panel->table();
  ASSERT_EQ(table.rows.size(), 2U);
  const Standing standing = standing_of(*store.run_a(), 0, 0, token);
  EXPECT_EQ(table.rows[0][3], "evicted when the prompt ended");
  EXPECT_EQ(table.rows[0][6], std::to_string(standing.rank));
  auto* effects = find<QLabel>("why_token_effects");
  auto* terms = find<QLabel>("why_token_terms");
  ASSERT_TRUE(wait_until([&] { return effects->text().contains("head&nbsp;1") && terms->text().contains("odds"); }));
  EXPECT_TRUE(terms->text().contains("after pooling"));
  EXPECT_FALSE(effects->text().contains(QString::fromUtf8("…</td>"))) << effects->text().toStdString();
  const auto chart = panel->figure();
  ASSERT_NE(chart, nullptr);
  EXPECT_EQ(chart->kind(), "line_chart");
}

TEST_F(Panels, WhyFollowsTheSelectionAndForgets) {
  open("why_token");
  const std::int64_t token = evicted_token();
  store.select_tokens({{token, token + 1}});
  panel->refresh_now();
  EXPECT_TRUE(find<QLabel>("why_token_head")->text().contains("position " + QString::number(token)));
  store.select_tokens({{token + 1, token + 2}});
  panel->refresh_now();
  EXPECT_TRUE(find<QLabel>("why_token_head")->text().contains("position " + QString::number(token + 1)));
  store.select_tokens({});
  panel->refresh_now();
  EXPECT_TRUE(find<QLabel>("message")->isVisible());
}

TEST_F(Panels, RedistributionShowsWhatTheModelSaysOfEitherRun) {
  open("redistribution");
  choose({1}, 2);
  for (const Side side : {Side::a, Side::b}) {
    store.set_view("redistribution", "run", side == Side::a ? "a" : "b");
    panel->refresh_now();
    const RunRedistribution expected = run_redistribution(*document, *store.run(side), store.selection(), 12);
    const auto shows = [&] {
      const auto figure = panel->figure();
      const auto* chart = dynamic_cast<const figure::RedistributionChart*>(figure.get());
      return chart != nullptr && chart->subtitle.find(store.run(side)->label) != std::string::npos && chart->has_factors &&
             chart->factors.evicted_mass == expected.evicted_mass();
    };
    ASSERT_TRUE(wait_until(shows));
    auto* heads = find<QTreeWidget>("redistribution_heads");
    ASSERT_EQ(heads->topLevelItemCount(), 1);
    EXPECT_EQ(heads->topLevelItem(0)->text(0), "head 1");
  }
}

TEST_F(Panels, RedistributionLeadsToHeadsAndTokens) {
  open("redistribution");
  auto* heads = find<QTreeWidget>("redistribution_heads");
  auto* tokens = find<QTreeWidget>("redistribution_tokens");
  ASSERT_TRUE(wait_until([&] { return heads->topLevelItemCount() == 4; }));
  QTest::mouseClick(heads->viewport(), Qt::LeftButton, {}, heads->visualItemRect(heads->topLevelItem(2)).center());
  EXPECT_EQ(store.selection().heads, (std::vector<int>{2}));
  ASSERT_TRUE(wait_until([&] { return heads->topLevelItemCount() == 1; }));
  const auto expected = run_redistribution(*document, *store.run_a(), store.selection(), 12);
  QTest::mouseClick(tokens->viewport(), Qt::LeftButton, {}, tokens->visualItemRect(tokens->topLevelItem(1)).center());
  const std::int64_t token = expected.receivers.front().token;
  EXPECT_EQ(store.selection().tokens, (std::vector<TokenRange>{{token, token + 1}}));
}

TEST_F(Panels, RedistributionSaysWhyItCannot) {
  open("redistribution");
  RunSpec spec = *store.spec(Side::a);
  spec.policy = "snapkv:window=16,merge=pivot";
  store.change_run(spec);
  store.put_run(spec.id, evaluated(document, spec));
  panel->refresh_now();
  ASSERT_TRUE(wait_until([&] { return find<QLabel>("message")->text().contains("changes keys or values"); }));
  EXPECT_EQ(panel->figure(), nullptr);
}

}  // namespace
}  // namespace kvreplay::gui
