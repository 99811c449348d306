// What is a single token worth? Runs with one token changed, and the table of the best tokens, against whole replays.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/replay_runs.h"

namespace kvreplay {
namespace {

using namespace replay_runs;

constexpr auto restore = TokenEdit::Kind::restore;
constexpr auto drop = TokenEdit::Kind::drop;

TEST(TokenEdits, AreWrittenAsTheyAreRead) {
  EXPECT_EQ(TokenEdit::parse(restore, "3:117").text(), "restore 3:117");
  EXPECT_EQ(TokenEdit::parse(drop, "0:*:12").text(), "drop 0:*:12");
  EXPECT_EQ(TokenEdit::parse(restore, "*:1:12").text(), "restore 1:12");
  for (const char* bad : {"", "3", "3:", ":3", "1:2:3:4", "a:1", "1:*", "1:-2", "*", "1:2x"})
    EXPECT_THROW(TokenEdit::parse(drop, bad), Error) << bad;
}

std::vector<std::int32_t> row_of(const Results& results, int run, std::int64_t layer, std::int64_t head) {
  const auto evicted_at = results.evicted_at(run, layer);
  const auto row = evicted_at.view()[head].flat();
  return {row.begin(), row.end()};
}

// Mean over steps of head_output_error, or of its square, for the query heads [first, end) of a layer.
double head_error(const Results& results, int run, std::int64_t layer, std::int64_t first, std::int64_t end, bool squared) {
  const MetricValues metric = results.metric(run, "head_output_error");
  const std::int64_t heads = metric.shape[1], steps = metric.shape[2];
  double total = 0;
  for (std::int64_t q = first; q < end; ++q)
    for (std::int64_t s = 0; s < steps; ++s) {
      const double value = metric.values[static_cast<std::size_t>((layer * heads + q) * steps + s)];
      total += squared ? value * value : value;
    }
  return total / static_cast<double>((end - first) * steps);
}

TEST(TokenEdits, ChangeOneTokenAndNothingElse) {
  const Folder folder;
  const auto contents = reference::random_contents(two_layers());
  const auto plain = run(folder, contents, {"streaming_llm"}, {"40"});
  ReplayRequest request;
  request.edits = {TokenEdit::parse(restore, "1:0:20"), TokenEdit::parse(drop, "*:70"), TokenEdit::parse(drop, "0:0:82")};
  const auto edited = run(folder, contents, {"streaming_llm"}, {"40"}, request);
  ASSERT_EQ(edited.runs.size(), 4U);
  EXPECT_EQ(edited.runs[0].kept_sha256, plain.runs[0].kept_sha256);
  for (int r = 1; r < 4; ++r) {
    EXPECT_EQ(edited.results->info(r).edit, request.edits[static_cast<std::size_t>(r) - 1].text());
    EXPECT_EQ(edited.results->info(r).edit_of, 0);
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      auto want = row_of(*plain.results, 0, layer, 0);
      if (r == 1 && layer == 1) want[20] = -1;
      if (r == 2) want[70] = 0;
      if (r == 3 && layer == 0) want[82] = 3;  // the third generated token, gone right after its own step
      EXPECT_EQ(row_of(*edited.results, r, layer, 0), want) << "run " << r << " layer " << layer;
    }
  }
}

TEST(TokenEdits, TellTheErrorBeforeAndAfter) {
  const Folder folder;
  ReplayRequest request;
  request.edits = {TokenEdit::parse(drop, "1:1:79"), TokenEdit::parse(drop, "0:79")};
  const auto outcome = run(folder, reference::random_contents(two_layers()), {"snapkv"}, {"40"}, request);
  for (int r : {1, 2}) {
    const auto& summary = outcome.runs[static_cast<std::size_t>(r)].summary;
    double output[2] = {0, 0};
    for (int side : {0, 1}) {
      const MetricValues metric = outcome.results->metric(side == 0 ? 0 : r, "output_error");
      for (std::size_t i = r == 1 ? 5 : 0; i < 10; ++i) output[side] += metric.values[i] / (r == 1 ? 5 : 10);
    }
    const auto heads = [&](int run_number) {
      if (r == 1) return head_error(*outcome.results, run_number, 1, 2, 4, false);
      return (head_error(*outcome.results, run_number, 0, 0, 2, false) +
              head_error(*outcome.results, run_number, 1, 0, 2, false)) /
             2;
    };
    EXPECT_NEAR(summary.at("edit.output_error.before"), output[0], 1e-6);  // float32 values
    EXPECT_NEAR(summary.at("edit.output_error.after"), output[1], 1e-6);
    EXPECT_NEAR(summary.at("edit.head_output_error.before"), heads(0), 1e-6);
    EXPECT_NEAR(summary.at("edit.head_output_error.after"), heads(r), 1e-6);
    EXPECT_EQ(summary.at("edit.rows"), r);
    EXPECT_NE(summary.at("edit.output_error.before"), summary.at("edit.output_error.after"));
  }
}

std::string refusal(const TokenEdit& edit, const std::string& policy = "streaming_llm") {
  const Folder folder;
  ReplayRequest request;
  request.edits = {edit};
  return reference::refusal_of([&] { run(folder, reference::random_contents(two_layers()), {policy}, {"40"}, request); });
}

TEST(TokenEdits, ThatChangeNothingAreRefused) {
  EXPECT_EQ(
      refusal(TokenEdit::parse(restore, "0:79")),
      "--restore 0:79: streaming_llm at 40 tokens on <memory> keeps this token, so there is nothing to restore; --worth N "
      "lists evicted tokens");
  EXPECT_NE(refusal(TokenEdit::parse(drop, "0:20")).find("evicted this token already"), std::string::npos);
  EXPECT_NE(refusal(TokenEdit::parse(drop, "0:85")).find("no token 85; it has 85, counted from 0"), std::string::npos);
  EXPECT_NE(refusal(TokenEdit::parse(drop, "2:0:5")).find("no layer 2"), std::string::npos);
  EXPECT_NE(refusal(TokenEdit::parse(drop, "1:5")).find("has 1 rows a layer (layer), and no row 1"), std::string::npos);
  EXPECT_NE(refusal(TokenEdit::parse(drop, "2:5"), "snapkv").find("has 2 rows a layer (kv_head), and no row 2"),
            std::string::npos);
  EXPECT_EQ(refusal(TokenEdit::parse(restore, "0:20"), "full"), "") << "the full cache has nothing to restore";
}

// Per KV head, per query head, one set a layer, and a policy that evicts while decoding; with diffuse and with sharp
// attention.
TEST(TokenWorthTable, IsWhatRealRestorationsMeasure) {
  for (const std::string policy : {"snapkv", "snapkv@released", "streaming_llm", "h2o", "tova"})
    for (const double sharpness : {1.0, 6.0, 60.0}) {  // at 60 what is kept can have next to no mass
      SCOPED_TRACE(policy + " sharpness " + std::to_string(sharpness));
      const Folder folder;
      Shape shape = two_layers();
      shape.sharpness = sharpness;
      const auto contents = reference::random_contents(shape);
      ReplayRequest request;
      std::vector<TokenWorth> worth;
      request.worth = 2;
      request.on_worth = [&](int, const TokenWorth& token) { worth.push_back(token); };
      const auto plain = run(folder, contents, {policy}, {"40"}, request);
      const std::int64_t rows = plain.results->evicted_at(0).dim(1), group = 4 / rows;
      ASSERT_EQ(worth.size(), static_cast<std::size_t>(2 * rows * 2));
      request.worth = 0;
      for (const TokenWorth& token : worth) {
        TokenEdit edit{restore, token.layer, token.head, token.token};
        request.edits = {edit};
        const auto restored = run(folder, contents, {policy}, {"40"}, request);
        const auto squared = [&](int r) {
          return head_error(*restored.results, r, token.layer, token.head * group, (token.head + 1) * group, true);
        };
        // Metrics are stored as float32, of outputs that were summed in float64 over float32 exponentials.
        EXPECT_NEAR(token.error, squared(0), 2e-6 * squared(0)) << edit.text();
        EXPECT_NEAR(token.restored_error, squared(1), 2e-6 * squared(0)) << edit.text();
        EXPECT_LT(token.restored_error, token.error) << "the best of a row lowers its error";
      }
    }
}

TEST(TokenWorthTable, IsRefusedWhereRowsChange) {
  const Folder folder;
  ReplayRequest request;
  request.worth = 1;
  request.on_worth = [](int, const TokenWorth&) {};
  try {
    run(folder, reference::random_contents(two_layers()), {"snapkv:merge=pivot"}, {"40"}, request);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("--worth: snapkv:merge=pivot changes keys or values"), std::string::npos)
        << error.what();
  }
}

// No evicted token does better than the first of the table.
TEST(TokenWorthTable, TheFirstIsTheBestOfAll) {
  const Folder folder;
  const auto contents = reference::random_contents(two_layers());
  ReplayRequest request;
  std::vector<TokenWorth> worth;
  request.worth = 3;
  request.on_worth = [&](int, const TokenWorth& token) { worth.push_back(token); };
  const auto plain = run(folder, contents, {"random"}, {"40"}, request);
  request.worth = 0;
  const auto row = row_of(*plain.results, 0, 0, 0);
  for (std::int64_t token = 0; token < 80; ++token)
    if (row[static_cast<std::size_t>(token)] == 0) request.edits.push_back({restore, 0, 0, token});
  const auto restored = run(folder, contents, {"random"}, {"40"}, request);
  std::vector<std::pair<double, std::int64_t>> errors;
  for (std::size_t r = 0; r < request.edits.size(); ++r)
    errors.emplace_back(head_error(*restored.results, static_cast<int>(r) + 1, 0, 0, 2, true), request.edits[r].token);
  std::sort(errors.begin(), errors.end());
  for (std::size_t place = 0; place < 3; ++place) {
    EXPECT_EQ(worth[place].token, errors[place].second);
    EXPECT_NEAR(worth[place].restored_error, errors[place].first, 2e-6 * worth[place].error);  // float32 metrics
  }
}

}  // namespace
}  // namespace kvreplay
