// Is a trace whose eviction is moved, or whose scoring queries are chosen, the trace that a capture of just that would be?
#include <gtest/gtest.h>

#include <cmath>

#include "core/trace/scoped_trace.h"
#include "tests/unit/replay_runs.h"

namespace kvreplay {
namespace {

using namespace replay_runs;

// 80 prompt tokens and 5 generated ones: a context, two questions with a needle before them, an answer between.
MemoryTraceContents conversation() {
  auto contents = reference::random_contents(two_layers());
  contents.spans = {{60, 70, "question"}, {0, 40, "context"}, {40, 52, "question"}, {52, 60, "answer"}, {10, 14, "needle"}};
  const auto queries = static_cast<std::int64_t>(contents.query_positions.size());
  for (int layer = 0; layer < 2; ++layer) {
    std::mt19937 random(static_cast<unsigned>(layer) + 7);
    contents.tensors[{layer, LayerDataset::log_sum_exp}] = reference::random_tensor(random, 1, 4, queries, 1);
    contents.tensors[{layer, LayerDataset::head_output}] = reference::random_tensor(random, 4, queries, 8, 1);
    contents.tensors[{layer, LayerDataset::attention_column_sum}] = reference::random_tensor(random, 1, 4, 85, 1);
  }
  return contents;
}

// The same sequence as if it had been captured with that prompt and those queries.
MemoryTraceContents recaptured(MemoryTraceContents contents, std::int64_t prompt, const std::vector<TextSpan>& score) {
  std::vector<std::int64_t> rows;
  std::vector<std::int32_t> positions;
  for (std::size_t row = 0; row < contents.query_positions.size(); ++row) {
    const std::int32_t position = contents.query_positions[row];
    bool offered = position >= prompt || score.empty();
    for (const TextSpan& span : score) offered = offered || (position >= span.start && position < span.end);
    if (!offered) continue;
    rows.push_back(static_cast<std::int64_t>(row));
    positions.push_back(position);
  }
  for (auto& [key, tensor] : contents.tensors) {
    const bool by_column = key.second == LayerDataset::log_sum_exp;
    if (!by_column && key.second != LayerDataset::query && key.second != LayerDataset::head_output) continue;
    auto shape = tensor.shape();
    shape[by_column ? 2 : 1] = static_cast<std::int64_t>(rows.size());
    Tensor<float, 3> cut(shape);
    for (std::int64_t h = 0; h < shape[0]; ++h)
      for (std::int64_t r = 0; r < shape[1]; ++r)
        for (std::int64_t c = 0; c < shape[2]; ++c)
          cut(h, r, c) =
              by_column ? tensor(h, r, rows[static_cast<std::size_t>(c)]) : tensor(h, rows[static_cast<std::size_t>(r)], c);
    tensor = std::move(cut);
  }
  for (int layer = 0; layer < 2; ++layer)
    if (prompt != contents.prompt_length || !score.empty())
      contents.tensors.erase({layer, LayerDataset::attention_column_sum});
  contents.prompt_length = prompt;
  contents.query_positions = positions;
  return contents;
}

void expect_same(const Tensor<float, 3>& a, const Tensor<float, 3>& b) {
  ASSERT_EQ(a.shape(), b.shape());
  EXPECT_TRUE(std::equal(a.flat().begin(), a.flat().end(), b.flat().begin()));
}

TEST(Scope, AViewReadsWhatACaptureOfItWouldHold) {
  const auto contents = conversation();
  const auto whole = make_memory_trace(contents);
  const std::vector<TextSpan> spans = {{3, 9, ""}, {9, 12, ""}, {40, 52, ""}};  // the first two lie side by side
  for (const auto& score : {std::vector<TextSpan>{}, spans}) {
    const auto view = scoped_trace(*whole, {52, score});
    const auto want = make_memory_trace(recaptured(contents, 52, score));
    EXPECT_EQ(view->prompt_length(), 52);
    EXPECT_EQ(view->num_decode_steps(), 33);
    EXPECT_EQ(view->query_positions(), want->query_positions());
    for (const auto which : {LayerDataset::key, LayerDataset::query, LayerDataset::head_output, LayerDataset::log_sum_exp,
                             LayerDataset::attention_column_sum}) {
      SCOPED_TRACE(layer_dataset_name(which));
      ASSERT_EQ(view->has(1, which), want->has(1, which));
      if (!want->has(1, which)) {
        EXPECT_THROW(view->read(1, which), Error);
        continue;
      }
      EXPECT_EQ(view->shape(1, which), want->shape(1, which));
      expect_same(view->read(1, which), want->read(1, which));
      if (which == LayerDataset::query) {
        expect_same(view->read(1, which, {1, 3}, {2, 17}), want->read(1, which, {1, 3}, {2, 17}));
        expect_same(view->read(1, which, {2, 3}, {4, 4}), want->read(1, which, {2, 3}, {4, 4}));
        EXPECT_THROW(view->read(1, which, {}, {0, 86}), Error);
      }
    }
  }
  EXPECT_TRUE(scoped_trace(*whole, {80, {}})->has(0, LayerDataset::attention_column_sum))
      << "the same prompt: the same sums";
  EXPECT_THROW(scoped_trace(*whole, {0, {}}), Error);
  EXPECT_THROW(scoped_trace(*whole, {86, {}}), Error);
}

TEST(Scope, ReplaysAreThoseOfTheCaptureOfJustThat) {
  const Folder folder;
  const auto contents = conversation();
  struct Case {
    std::vector<std::string> score;
    std::int64_t prompt_length, prompt;
    std::vector<TextSpan> spans;
    std::vector<std::string> policies;
  };
  for (const Case& one : {Case{{"context"}, 0, 40, {{0, 40, ""}}, {"snapkv:window=8", "h2o", "restkv:window=8"}},
                          Case{{"question#1"}, 0, 52, {{40, 52, ""}}, {"snapkv:window=12", "tova", "streaming_llm"}},
                          Case{{"question"}, 0, 70, {{40, 52, ""}, {60, 70, ""}}, {"snapkv:window=10", "restkv:window=8"}},
                          Case{{}, 64, 64, {}, {"snapkv", "h2o", "random"}}}) {
    ReplayRequest request;
    request.score_spans = one.score;
    request.prompt_length = one.prompt_length;
    const auto scoped = run(folder, contents, one.policies, {"33"}, request);
    const auto want = run(folder, recaptured(contents, one.prompt, one.spans), one.policies, {"33"});
    for (std::size_t r = 0; r < want.runs.size(); ++r) {
      SCOPED_TRACE(want.runs[r].policy);
      EXPECT_GT(want.runs[r].summary.at("evicted_tokens"), 0);
      EXPECT_EQ(scoped.runs[r].kept_sha256, want.runs[r].kept_sha256);
      EXPECT_EQ(scoped.runs[r].summary, want.runs[r].summary);
      EXPECT_EQ(scoped.runs[r].cache_bytes, want.runs[r].cache_bytes);
      const RunInfo& info = scoped.results->info(static_cast<int>(r));
      EXPECT_EQ(info.prompt_length, one.prompt);
      EXPECT_EQ(info.score_spans.size(), one.spans.size());
    }
  }
}

TEST(Scope, OnlyJudgedStepsCount) {
  const Folder folder;
  ReplayRequest request;
  request.score_spans = {"question#1"};
  request.judge_spans = {"question#2"};
  const auto judged = run(folder, conversation(), {"snapkv:window=12"}, {"33"}, request);
  request.judge_spans = {};
  const auto all = run(folder, conversation(), {"snapkv:window=12"}, {"33"}, request);
  EXPECT_EQ(judged.runs[0].kept_sha256, all.runs[0].kept_sha256) << "judging changes nothing that is evicted";
  EXPECT_EQ(judged.runs[0].summary.at("not_finite"), 0);
  const auto want = all.results->metric(0, "output_error"), got = judged.results->metric(0, "output_error");
  double total = 0;
  for (std::size_t i = 0; i < got.values.size(); ++i) {
    const std::size_t position = 52 + i % 33;  // 33 steps after the eviction at 52
    if (position >= 60 && position < 70) {
      EXPECT_EQ(got.values[i], want.values[i]);
      total += got.values[i];
    } else {
      EXPECT_TRUE(std::isnan(got.values[i])) << position;
    }
  }
  EXPECT_NEAR(judged.runs[0].summary.at("output_error"), total / 20, 1e-6);  // two layers; float32 values
  const RunInfo& info = judged.results->info(0);
  EXPECT_EQ(info.scope, "score question#1; judge question#2");
  ASSERT_EQ(info.judge_spans.size(), 1U);
  EXPECT_EQ(info.judge_spans[0].start, 60);
  EXPECT_EQ(info.judge_spans[0].label, "question");
}

TEST(Scope, SpansAreFoundByLabelAndNumber) {
  const auto trace = make_memory_trace(conversation());
  const auto starts = [&](const std::vector<std::string>& names) {
    std::vector<int> found;
    for (const TextSpan& span : select_spans(*trace, names, "--score")) found.push_back(span.start);
    return found;
  };
  EXPECT_EQ(starts({"question"}), (std::vector<int>{40, 60}));
  EXPECT_EQ(starts({"question#2"}), (std::vector<int>{60}));
  EXPECT_EQ(starts({"question#2", "context"}), (std::vector<int>{0, 60}));
  EXPECT_EQ(starts({"prompt", "generated"}), (std::vector<int>{0, 80}));
}

std::string refusal(const ReplayRequest& request, const std::string& policy = "snapkv",
                    MemoryTraceContents contents = conversation()) {
  const Folder folder;
  return reference::refusal_of([&] { run(folder, contents, {policy}, {"33"}, request); });
}

TEST(Scope, RefusalsNameTheSpanTheFileAndWhatThereIs) {
  ReplayRequest request;
  request.score_spans = {"qestion"};
  EXPECT_EQ(refusal(request), "--score: <memory> has no marked span \"qestion\"; did you mean \"question\"?");
  request.score_spans = {"system"};
  EXPECT_NE(refusal(request).find("it has question, context, answer, needle, prompt and generated"), std::string::npos);
  request.score_spans = {"question#3"};
  EXPECT_NE(refusal(request).find("has only 2 spans \"question\""), std::string::npos);
  request.score_spans = {"question#1"};
  EXPECT_EQ(
      refusal(request),
      "<memory>: the query of position 20 may not score, which a policy that scores with the last 32 prompt queries needs: "
      "only those in \"question\" (40 to 51) may; a policy with a window takes at most 12 queries here; or let more spans "
      "score");
  request.judge_spans = {"context"};
  EXPECT_NE(refusal(request, "random").find("no token of context in <memory> comes after the eviction at token 52"),
            std::string::npos);

  auto few = conversation();  // as a capture with --queries window:8 leaves it
  few = recaptured(std::move(few), 80, {{72, 80, ""}});
  request.judge_spans = {"question#2"};
  EXPECT_NE(refusal(request, "random", few).find("no query of question#2 was recorded"), std::string::npos);
  EXPECT_NE(refusal(request, "random", few).find("--queries all"), std::string::npos);
  request.judge_spans = {};
  EXPECT_NE(refusal(request, "snapkv:window=8", few).find("was not recorded"), std::string::npos);
  request.score_spans = {};
  request.prompt_length = 86;
  EXPECT_NE(refusal(request, "random").find("no prompt of 86 tokens"), std::string::npos);
}

}  // namespace
}  // namespace kvreplay
