// Does the store say what changed, and do back and forward go through selections and zooms?
#include "gui/model/store.h"

#include <gtest/gtest.h>

#include "tests/gui/example.h"

namespace kvreplay::gui {
namespace {

struct Heard {
  explicit Heard(Store& store) {
    QObject::connect(&store, &Store::changed, &store, [this](Changes what) { changes.push_back(what); });
  }
  std::vector<Changes> changes;
};

TEST(StoreTells, WhatChangedAndOnlyThen) {
  Store store;
  const int file = store.add_file(FileEntry::Kind::trace, "t.h5");
  store.put_document(file, example_document());
  const Heard heard(store);
  store.select_layer(1);
  store.select_layer(1);
  store.set_focus({.token = 4});
  store.set_zoom("tokens", {1, 5});
  ASSERT_EQ(heard.changes.size(), 3U);
  EXPECT_EQ(heard.changes[0], Changes(Change::selection));
  EXPECT_EQ(heard.changes[1], Changes(Change::focus));
  EXPECT_EQ(heard.changes[2], Changes(Change::zoom));
}

TEST(StoreClamps, SelectionsToTheTrace) {
  Store store;
  store.put_document(store.add_file(FileEntry::Kind::trace, "t.h5"), example_document());
  const auto document = store.document();
  store.select_layer(99);
  store.select_step(9999);
  store.select_heads({3, 1, 1, 77, -2});
  store.select_tokens({{5, 9}, {2, 5}, {7, 1000000}, {3, 3}});
  EXPECT_EQ(store.selection().layer, document->num_layers() - 1);
  EXPECT_EQ(store.selection().step, document->num_steps());
  EXPECT_EQ(store.selection().heads, (std::vector<int>{1, 3}));
  EXPECT_EQ(store.selection().tokens, (std::vector<TokenRange>{{2, document->num_tokens()}}));
}

// Two open traces, the second with fewer of everything, and a run on each.
struct TwoTraces : testing::Test {
  TwoTraces() {
    for (const auto& document : {large, small}) {
      RunSpec spec;
      spec.trace = store.add_file(FileEntry::Kind::trace, "t" + std::to_string(traces.size()) + ".h5");
      spec.policy = "snapkv";
      spec.budget = "50%";
      store.put_document(spec.trace, document);
      traces.push_back(spec.trace);
      runs.push_back(store.add_run(spec));
    }
    // At the far end of everything: what is told must be in the ranges of the trace that it is told of.
    store.select_run(Side::a, runs[0]);
    Selection selection = store.selection();
    selection.layer = 99;
    selection.step = 99;
    selection.heads = {3};
    selection.tokens = {{150, 212}};
    store.set_selection(selection);
    store.set_focus({.token = 150, .head = 3, .layer = 2});
    QObject::connect(&store, &Store::changed, &store, [this] {
      const auto document = store.document();
      if (document == nullptr) return;
      ++told;
      EXPECT_LT(store.selection().layer, document->num_layers());
      EXPECT_LE(store.selection().step, document->num_steps());
      for (const int head : store.selection().heads) EXPECT_LT(head, document->num_query_heads());
      for (const TokenRange& range : store.selection().tokens) EXPECT_LE(range.end, document->num_tokens());
      EXPECT_LT(store.focus().token, document->num_tokens());
      EXPECT_LT(store.focus().layer, document->num_layers());
      EXPECT_LT(store.focus().head, document->num_query_heads());
    });
  }
  std::shared_ptr<const Document> large = example_document(), small = smaller_document();
  Store store;
  std::vector<int> traces, runs;
  int told = 0;
};

TEST_F(TwoTraces, ARunOfTheOtherBringsItsRanges) {
  store.select_run(Side::a, runs[1]);
  EXPECT_EQ(store.document(), small);
  EXPECT_EQ(store.selection().layer, 1);
  EXPECT_EQ(store.selection().step, 5);
  EXPECT_TRUE(store.selection().heads.empty());
  store.back();
  EXPECT_EQ(store.document(), large);
  EXPECT_EQ(store.selection().layer, 2);
  EXPECT_EQ(store.selection().heads, std::vector<int>{3});
  EXPECT_EQ(told, 2);
}

TEST_F(TwoTraces, TakingRunAAwayLeavesTheRangesOfWhatFollows) {
  store.select_run(Side::b, runs[1]);
  store.remove_run(runs[0]);
  EXPECT_EQ(store.document(), small);
  EXPECT_EQ(told, 2);
}

TEST_F(TwoTraces, ARunOfTheOtherIsNotReadInTheRangesOfThisOne) {
  const auto put = [this](int id, const Document& document) {
    auto run = std::make_shared<gui::Run>();
    run->tokens = document.num_tokens();
    run->query_heads = document.num_query_heads();
    run->layers.resize(static_cast<std::size_t>(document.num_layers()));
    store.put_run(id, run);
  };
  put(runs[0], *large);
  put(runs[1], *small);
  store.select_run(Side::b, runs[1]);
  EXPECT_NE(store.run_a(), nullptr);
  EXPECT_EQ(store.run_b(), nullptr);
  EXPECT_NE(store.run(runs[1]), nullptr);
  EXPECT_TRUE(store.is_of_another_trace(Side::b));
  store.swap_runs();
  EXPECT_EQ(store.document(), small);
  EXPECT_EQ(store.run_a(), store.run(runs[1]));
  EXPECT_EQ(store.run_b(), nullptr);
  // A file that was read again: its run is of the sizes that it had before.
  store.put_document(traces[1], large);
  EXPECT_EQ(store.run_a(), nullptr);
}

TEST_F(TwoTraces, ClosingTheTraceOnScreenDoesToo) {
  store.remove_file(traces[0]);
  EXPECT_EQ(store.document(), small);
  EXPECT_GE(told, 1);
}

TEST_F(TwoTraces, ReadingASmallerOneInItsPlaceDoesToo) {
  store.put_document(traces[0], small);
  EXPECT_EQ(told, 1);
}

TEST(BackAndForward, GoThroughSelectionAndZoom) {
  Store store;
  store.put_document(store.add_file(FileEntry::Kind::trace, "t.h5"), example_document());
  EXPECT_FALSE(store.can_go_back());
  store.select_layer(1);
  store.set_zoom("tokens", {2, 6});
  store.select_heads({2});
  store.back();
  EXPECT_TRUE(store.selection().heads.empty());
  EXPECT_EQ(store.zoom("tokens", {0, 100}), (Interval{2, 6}));
  store.back();
  EXPECT_EQ(store.zoom("tokens", {0, 100}), (Interval{0, 100}));
  EXPECT_EQ(store.selection().layer, 1);
  store.back();
  EXPECT_EQ(store.selection().layer, 0);
  EXPECT_FALSE(store.can_go_back());
  store.forward();
  store.forward();
  EXPECT_EQ(store.zoom("tokens", {0, 100}), (Interval{2, 6}));
  store.select_step(1);
  EXPECT_FALSE(store.can_go_forward());
}

TEST(BackAndForward, TakeADragAsOne) {
  Store store;
  store.put_document(store.add_file(FileEntry::Kind::trace, "t.h5"), example_document());
  for (int step = 1; step <= 5; ++step) store.select_step(step);
  store.back();
  EXPECT_EQ(store.selection().step, 0);
  EXPECT_FALSE(store.can_go_back());
}

TEST(RemovingAFile, TakesItsRunsAlong) {
  Store store;
  const int file = store.add_file(FileEntry::Kind::trace, "t.h5");
  store.put_document(file, example_document());
  RunSpec spec;
  spec.trace = file;
  spec.policy = "snapkv";
  spec.budget = "50%";
  const int run = store.add_run(spec);
  store.select_run(Side::a, run);
  store.remove_file(file);
  EXPECT_TRUE(store.state().runs.empty());
  EXPECT_EQ(store.selection().run_a, -1);
  EXPECT_EQ(store.document(), nullptr);
}

}  // namespace
}  // namespace kvreplay::gui
