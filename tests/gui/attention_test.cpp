// Is the attention that is drawn that of the queries and keys, before and after the eviction, at any size?
#include "gui/model/attention.h"

#include <gtest/gtest.h>

#include <QLabel>
#include <QTest>
#include <cmath>

#include "core/base/parallel.h"
#include "gui/figure/heat_map.h"
#include "gui/window/widgets/choice.h"
#include "gui/window/widgets/matrix_view.h"
#include "gui/window/widgets/readout.h"
#include "tests/gui/panel_fixture.h"

namespace kvreplay::gui {
namespace {

// In float64, from the definition: a(key), 0 for keys that are not held.
std::vector<double> reference(const Document& document, int layer, int head, std::int64_t row,
                              const std::function<bool(std::int64_t)>& held) {
  const Trace& trace = document.trace();
  const auto key = trace.read(layer, LayerDataset::key), query = trace.read(layer, LayerDataset::query);
  const std::int64_t position = trace.query_positions()[static_cast<std::size_t>(row)];
  std::vector<double> weights(static_cast<std::size_t>(position + 1), 0);
  double total = 0;
  for (std::int64_t i = 0; i <= position; ++i) {
    double logit = 0;
    for (std::int64_t k = 0; k < key.dim(2); ++k)
      logit += static_cast<double>(query(head, row, k)) * key(head / trace.model().group_size(), i, k);
    if (held(i)) total += weights[static_cast<std::size_t>(i)] = std::exp(logit * trace.model().attention_scale);
  }
  for (double& weight : weights) weight /= total;
  return weights;
}

struct Attention : TwoRuns, testing::Test {
  Attention() : TwoRuns("tova", "snapkv:window=8", example_document()) {}
  AttentionRequest request(AttentionForm form) const {
    AttentionRequest wanted;
    wanted.document = document;
    wanted.run = store.run_a();
    wanted.layer = 1, wanted.head = 3;
    wanted.form = form;
    std::tie(wanted.first_query, wanted.end_query) = query_range(*document, QueryRange::all, 0);
    wanted.end_key = document->num_tokens();
    return wanted;
  }
  AttentionPicture painted(const AttentionRequest& wanted) const {
    std::atomic<std::int64_t> done{0};
    AttentionPainter painter;
    const AttentionPicture picture = painter.paint(wanted, done);
    EXPECT_EQ(done, wanted.end_query - wanted.first_query);
    return picture;
  }
};

// float32 products of 16 terms and a softmax: some 1e-6 of a weight at most 1.
constexpr double rounding = 2e-6;

TEST_F(Attention, IsThatOfQueriesAndKeys) {
  const auto full = painted(request(AttentionForm::full)), evicted = painted(request(AttentionForm::evicted)),
             difference = painted(request(AttentionForm::difference));
  const auto run = store.run_a();
  for (const std::int64_t row : {0, 17, 199, 200, 205, 211}) {
    const std::int64_t position = document->trace().query_positions()[static_cast<std::size_t>(row)];
    const auto step = static_cast<int>(position - 200 + 1);  // of a generated token
    const auto held = [&](std::int64_t key) { return step < 1 || key == position || run->kept(1, 3, key, step - 1); };
    const auto before = reference(*document, 1, 3, row, [](std::int64_t) { return true; });
    const auto after = reference(*document, 1, 3, row, held);
    int lost = 0;
    for (std::int64_t key = 0; key < document->num_tokens(); ++key) {
      if (key > position) {
        EXPECT_TRUE(std::isnan(full.pyramid->value(row, key)));
        EXPECT_TRUE(std::isnan(difference.pyramid->value(row, key)));
        continue;
      }
      const double a = before[static_cast<std::size_t>(key)], b = after[static_cast<std::size_t>(key)];
      EXPECT_NEAR(full.pyramid->value(row, key), a, rounding);
      EXPECT_NEAR(evicted.pyramid->value(row, key), held(key) ? b : evicted_key, rounding);
      EXPECT_NEAR(difference.pyramid->value(row, key), b - a, rounding);
      if (step < 1) {
        EXPECT_EQ(difference.pyramid->value(row, key), 0);  // a query of the prompt: nothing is evicted yet
      }
      lost += held(key) ? 0 : 1;
    }
    EXPECT_EQ(lost > 100, step >= 1) << row;  // 30 % of 200 are kept
  }
}

TEST_F(Attention, IsReducedToWhatFits) {
  AttentionRequest wanted = request(AttentionForm::full);
  const auto whole = painted(wanted);
  wanted.first_key = 20, wanted.end_key = 210, wanted.first_query = 101, wanted.end_query = 205;
  wanted.most_rows = 30, wanted.most_columns = 50;
  const auto part = painted(wanted);
  EXPECT_EQ(part.keys_a_cell, 4);
  EXPECT_EQ(part.queries_a_cell, 4);
  ASSERT_EQ(part.pyramid->rows(), 26);
  ASSERT_EQ(part.pyramid->columns(), 48);
  for (std::int64_t row = 0; row < 26; ++row)
    for (std::int64_t column = 0; column < 48; ++column) {
      float most = std::nanf("");
      for (std::int64_t query = 101 + 4 * row; query < std::min<std::int64_t>(205, 105 + 4 * row); ++query)
        for (std::int64_t key = 20 + 4 * column; key < std::min<std::int64_t>(210, 24 + 4 * column); ++key)
          most = std::fmax(most, whole.pyramid->value(query, key));
      const float shown = part.pyramid->value(row, column);
      EXPECT_TRUE(shown == most || (std::isnan(shown) && std::isnan(most))) << row << "," << column;
    }
}

TEST_F(Attention, StopsWhenNobodyWaits) {
  std::atomic<bool> stop{true};
  const CancelScope scope(stop);
  std::atomic<std::int64_t> done{0};
  AttentionPainter painter;
  EXPECT_THROW(painter.paint(request(AttentionForm::full), done), Cancelled);
  EXPECT_EQ(done, 0);
}

TEST_F(Attention, WindowsAndRangesOfQueries) {
  EXPECT_EQ(policy_window(*store.run_b()), 8);
  EXPECT_EQ(query_range(*document, QueryRange::generated, 8), (std::pair<std::int64_t, std::int64_t>{200, 212}));
  EXPECT_EQ(query_range(*document, QueryRange::window, 8), (std::pair<std::int64_t, std::int64_t>{192, 212}));
}

struct AttentionPanel : Attention {
  AttentionPanel() {
    open("attention_view");
    view = find<MatrixView>("attention_view_view");
    settle();
  }
  void settle() {
    panel->refresh_now();
    ASSERT_TRUE(wait_until([&] { return view->content().columns > 0 && !panel->property("busy").toBool(); }));
  }
  void choose(const char* name, const std::string& value) {
    auto* choice = find<Choice>(name);
    choice->show_value(value);
    emit choice->chosen(value);
    settle();
  }
  QPoint place_of(std::int64_t row, std::int64_t column) const {
    const MatrixGeometry geometry = view->geometry_now();
    return {static_cast<int>(geometry.x_of(static_cast<double>(column) + 0.5)),
            static_cast<int>(geometry.y_of(static_cast<double>(row) + 0.5))};
  }
  MatrixView* view = nullptr;
};

TEST_F(AttentionPanel, FollowsLayerHeadRunAndForm) {
  EXPECT_EQ(view->content().rows, 32 + 12);
  choose("attention_view_queries", "all");
  EXPECT_EQ(view->content().rows, 212);
  store.select_layer(1);
  store.select_heads({3});
  settle();
  for (const auto& [name, form] : {std::pair{"full", AttentionForm::full},
                                   {"evicted", AttentionForm::evicted},
                                   {"difference", AttentionForm::difference}}) {
    choose("attention_view_form", name);
    const auto expected = painted(request(form));
    for (const std::int64_t row : {50, 204, 211})
      for (std::int64_t key = 0; key <= row; ++key)
        EXPECT_EQ(view->value_at(row, key), expected.pyramid->value(row, key)) << name;
  }
  const auto map = panel->figure();
  ASSERT_NE(map, nullptr);
  EXPECT_EQ(dynamic_cast<figure::HeatMap&>(*map).rows, 212);
}

TEST_F(AttentionPanel, IsDescribedWithItsOwnTraceUntilTheNextIsThere) {
  choose("attention_view_form", "evicted");
  ASSERT_TRUE(view->content().strip.has_value());
  EXPECT_EQ(view->content().columns, 212);
  store.select_layer(2);
  settle();
  const int smaller = open_smaller("restkv:window=8");
  const std::string before = panel->figure()->subtitle;
  store.select_run(Side::a, smaller);
  panel->refresh_now();
  store.select_step(3);  // the strip is of a step
  panel->refresh_now();
  EXPECT_EQ(view->content().columns, 212);
  EXPECT_EQ(view->content().strip->pyramid->columns(), 212);
  EXPECT_EQ(panel->figure()->subtitle, before);
  settle();
  EXPECT_EQ(view->content().columns, 125);
  EXPECT_EQ(view->content().strip->pyramid->columns(), 125);
  EXPECT_NE(panel->figure()->subtitle, before);
}

TEST_F(AttentionPanel, TheStripIsOfTheRunAlsoBesideTheFullCache) {
  choose("attention_view_form", "full");
  EXPECT_EQ(view->content().strip->pyramid->columns(), 212);
  const auto run_b = store.selection().run_b;
  const auto kept = [this] {
    std::vector<float> values(212);
    const auto& matrix = *view->content().strip->pyramid;
    for (std::int64_t token = 0; token < 212; ++token) values[static_cast<std::size_t>(token)] = matrix.value(0, token);
    return values;
  };
  const auto of_a = kept();
  store.select_run(Side::a, run_b);
  settle();
  int different = 0;
  for (std::int64_t token = 0; token < 200; ++token) {
    EXPECT_EQ(kept()[static_cast<std::size_t>(token)], store.run_a()->kept(0, 0, token, 0) ? 1.0F : 0.0F);
    different += kept()[static_cast<std::size_t>(token)] != of_a[static_cast<std::size_t>(token)] ? 1 : 0;
  }
  EXPECT_GT(different, 0);
}

TEST_F(AttentionPanel, AClickSelectsTokenAndStep) {
  choose("attention_view_queries", "generated");
  store.set_zoom("tokens", {100, 120});
  panel->refresh_now();
  QTest::mouseClick(view->viewport(), Qt::LeftButton, {}, place_of(6, 111));
  EXPECT_EQ(store.selection().step, 7);
  EXPECT_EQ(store.selection().tokens, (std::vector<TokenRange>{{111, 112}}));
}

TEST_F(AttentionPanel, PointingTellsQueryKeyAndWeight) {
  choose("attention_view_queries", "generated");
  choose("attention_view_form", "evicted");
  store.set_zoom("tokens", {100, 120});
  panel->refresh_now();
  QTest::mouseMove(view->viewport(), place_of(6, 111));
  const QString said = find<Readout>("attention_view_readout")->text();
  EXPECT_TRUE(said.contains("query of token 206")) << said.toStdString();
  EXPECT_TRUE(said.contains("key of token 111")) << said.toStdString();
  EXPECT_TRUE(said.contains(store.run_a()->kept(0, 0, 111, 6) ? "·  attention " : "·  evicted")) << said.toStdString();
}

}  // namespace
}  // namespace kvreplay::gui
