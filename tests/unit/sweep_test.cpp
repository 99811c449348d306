// Sweeps: do several backends, loading ahead, kept sets and files with summaries only give what a plain replay gives?
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "core/backend/cpu/cpu_backend.h"
#include "core/replay/cache_account_internal.h"
#include "core/report/comparison.h"
#include "core/trace/compare.h"
#include "core/trace/file_summary.h"
#include "core/trace/validate.h"
#include "tests/unit/replay_runs.h"

namespace kvreplay {
namespace {

using namespace replay_runs;

// The CPU's backend, which loads ahead and counts what is loaded at once.
class CountingBackend final : public Backend {
 public:
  struct Counted final : LoadedLayer {};

  explicit CountingBackend(bool ahead, int fail_at = -1) : ahead_(ahead), fail_at_(fail_at) {}
  std::string name() const override { return "cpu"; }
  BackendPlan plan(const Trace&, std::size_t runs, const EvaluationRequest&) const override {
    planned_runs = runs;
    if (!has_room) throw Error("layers", "do not fit");
    return {ahead_, 3, shared_bytes, ahead_ ? "two layers" : ""};
  }
  std::int64_t array_bytes() const override { return cpu_->array_bytes(); }
  std::shared_ptr<LoadedLayer> load(const Trace& trace, int layer) override {
    if (layer == fail_at_) throw Error("layer " + std::to_string(layer), "cannot be loaded");
    most_held = std::max<int>(most_held, ++held);
    loaded.insert(layer);
    const std::shared_ptr<LoadedLayer> inner = cpu_->load(trace, layer);
    return {inner.get(), [this, inner](LoadedLayer*) { --held; }};
  }
  std::vector<float> download(const Array& a) override { return cpu_->download(a); }
  Array upload(const std::vector<std::int64_t>& s, const std::vector<float>& v) override { return cpu_->upload(s, v); }
  AttentionRows window_attention(const LoadedLayer& l, int w, bool o) override {
    ++window_attentions;
    return cpu_->window_attention(l, w, o);
  }
  Array column_sums(const LoadedLayer& l, ColumnMask m, int w) override { return cpu_->column_sums(l, m, w); }
  Array decode_attention_sum(const LoadedLayer& l) override { return cpu_->decode_attention_sum(l); }
  Tensor<float, 2> decode_logits(const LoadedLayer& l, int h) override { return cpu_->decode_logits(l, h); }
  Array removal_error_rows(const LoadedLayer& l, const AttentionRows& r, const ReconstructionForm& f) override {
    return cpu_->removal_error_rows(l, r, f);
  }
  Array removal_error_of_mean(const LoadedLayer& l, const AttentionRows& r, const std::vector<double>& w,
                              const ReconstructionForm& f) override {
    return cpu_->removal_error_of_mean(l, r, w, f);
  }
  Array reduce_rows(const Array& r, const std::vector<double>& w) override { return cpu_->reduce_rows(r, w); }
  Array reduce_group(const Array& s, int g, Reduction h) override { return cpu_->reduce_group(s, g, h); }
  Array key_norms(const LoadedLayer& l) override { return cpu_->key_norms(l); }
  Array value_norms(const LoadedLayer& l) override { return cpu_->value_norms(l); }
  Array multiply(const Array& s, const Array& f, double x) override { return cpu_->multiply(s, f, x); }
  Array prefix(const Array& s, std::int64_t c) override { return cpu_->prefix(s, c); }
  Array average_pool(const Array& s, const std::vector<int>& k, const std::vector<int>& m, Padding p) override {
    return cpu_->average_pool(s, k, m, p);
  }
  Array max_pool(const Array& s, int k) override { return cpu_->max_pool(s, k); }
  std::vector<std::vector<double>> mean_top_column(const Array& r, std::int64_t c, Ties t) override {
    return cpu_->mean_top_column(r, c, t);
  }
  std::vector<std::vector<std::int32_t>> select_top(const Array& s, const std::vector<std::int64_t>& c) override {
    return cpu_->select_top(s, c);
  }
  void evaluate(const LoadedLayer& l, const std::vector<RunEvictions>& r, const EvaluationRequest& q,
                EvaluationSink& s) override {
    largest_batch = std::max(largest_batch, r.size());
    for (const RunEvictions& run : r) kept_sets += run.kept != nullptr ? 1 : 0;
    cpu_->evaluate(l, r, q, s);
  }

  std::atomic<int> held{0}, most_held{0}, kept_sets{0};
  std::atomic<int> window_attentions{0};
  bool has_room = true;
  std::int64_t shared_bytes = 0;
  std::size_t largest_batch = 0;
  mutable std::size_t planned_runs = 0;
  std::set<int> loaded;

 private:
  bool ahead_;
  int fail_at_;
  std::unique_ptr<Backend> cpu_ = make_cpu_backend();
};

// Needles, a sliding window, more layers than backends.
MemoryTraceContents sweep_contents() {
  Shape shape = two_layers();
  shape.layers = 7;
  shape.sliding_window = 50;
  MemoryTraceContents contents = reference::random_contents(shape);
  contents.sliding_window.assign(7, 0);
  contents.sliding_window[3] = 50;
  contents.spans = {{10, 14, "needle"}};
  return contents;
}

ReplayRequest sweep_request() {
  ReplayRequest request;
  for (const char* policy : {"snapkv", "restkv", "streaming_llm", "h2o", "pyramidkv", "full", "snapkv:block=16"})
    request.policies.push_back(parse_policy(policy));
  for (const char* budget : {"40", "50%"}) request.budgets.push_back(Budget::parse(budget));
  return request;
}

struct Written {
  std::vector<RunInfo> runs;
  std::vector<std::string> informed, warned;
  std::unique_ptr<Results> results;
  std::string path;
};

struct Listening final : Job {
  std::vector<std::string> informed, warned;
  double done = 0, total = 0;
  void begin(std::string_view, double all, std::string_view) override { total = all; }
  void advance_to(double now) override { done = now; }
  void inform(std::string_view message) override { informed.emplace_back(message); }
  void warn(std::string_view message) override { warned.emplace_back(message); }
};

Written write(const Folder& folder, const std::string& name, const ReplayRequest& request,
              const std::vector<Backend*>& backends) {
  const auto trace = make_memory_trace(sweep_contents());
  Written written;
  written.path = folder.path + "/" + name;
  Listening job;
  ResultsWriter writer(written.path);
  written.runs = replay(*trace, request, backends, writer, job);
  writer.finish();
  EXPECT_EQ(job.done, job.total);
  written.informed = job.informed;
  written.warned = job.warned;
  written.results = open_results(written.path);
  return written;
}

void expect_same_runs(const Written& a, const Written& b) {
  ASSERT_EQ(a.runs.size(), b.runs.size());
  for (std::size_t r = 0; r < a.runs.size(); ++r) {
    EXPECT_EQ(a.runs[r].policy, b.runs[r].policy);
    EXPECT_EQ(a.runs[r].budget, b.runs[r].budget);
    EXPECT_EQ(a.runs[r].kept_sha256, b.runs[r].kept_sha256) << a.runs[r].policy;
    EXPECT_EQ(a.runs[r].cache_bytes, b.runs[r].cache_bytes);
    EXPECT_EQ(a.runs[r].peak_cache_bytes, b.runs[r].peak_cache_bytes) << a.runs[r].policy;
    EXPECT_EQ(a.runs[r].notes, b.runs[r].notes);
    EXPECT_EQ(a.runs[r].summary, b.runs[r].summary) << a.runs[r].policy << ": to the last bit";
  }
}

TEST(SeveralBackends, GiveTheFilesOfOne) {
  const Folder folder;
  const ReplayRequest request = sweep_request();
  const auto cpu = make_cpu_backend();
  const Written one = write(folder, "one.h5", request, {cpu.get()});
  for (const bool ahead : {false, true})
    for (const int count : {1, 2, 3, 12}) {
      std::vector<std::unique_ptr<CountingBackend>> owned;
      std::vector<Backend*> backends;
      for (int b = 0; b < count; ++b) backends.push_back(owned.emplace_back(std::make_unique<CountingBackend>(ahead)).get());
      const Written several = write(folder, "several.h5", request, backends);
      expect_same_runs(one, several);
      Job job;
      for (const Difference& difference : compare_files(one.path, several.path, {}, job))
        EXPECT_FALSE(difference.counts) << difference.where << ": " << difference.what;
      std::multiset<int> layers;
      for (const auto& backend : owned) {
        layers.insert(backend->loaded.begin(), backend->loaded.end());
        EXPECT_LE(backend->most_held, ahead ? 2 : 1) << "layers of one backend at once";
        EXPECT_EQ(backend->held, 0);
        EXPECT_LE(backend->largest_batch, 3U) << "as planned";
        EXPECT_EQ(backend->planned_runs, request.policies.size() * request.budgets.size());
      }
      EXPECT_EQ(layers, (std::multiset<int>{0, 1, 2, 3, 4, 5, 6})) << "each layer once";
      EXPECT_EQ(several.informed.size(), ahead ? 1U : 0U) << "the same for all, told once";
    }
}

// Scores that settings share are let go when they take too much, and made again.
TEST(SharedScores, AreBoundedAndChangeNothing) {
  const Folder folder;
  CountingBackend unbounded(false), bounded(false);
  bounded.shared_bytes = 1;
  const Written plain = write(folder, "plain.h5", sweep_request(), {&unbounded});
  const Written forgetful = write(folder, "forgetful.h5", sweep_request(), {&bounded});
  EXPECT_GT(bounded.window_attentions, 2 * unbounded.window_attentions);
  expect_same_runs(plain, forgetful);
}

TEST(SeveralBackends, OneWithoutRoomIsLeftOutWhileAnotherHasRoom) {
  const Folder folder;
  CountingBackend has_room(true), full(true);
  full.has_room = false;
  const auto cpu = make_cpu_backend();
  const Written one = write(folder, "one.h5", sweep_request(), {cpu.get()});
  expect_same_runs(one, write(folder, "left_out.h5", sweep_request(), {&full, &has_room}));
  EXPECT_TRUE(full.loaded.empty());
  EXPECT_EQ(has_room.loaded.size(), 7U);
  has_room.has_room = false;
  EXPECT_THROW(write(folder, "none.h5", sweep_request(), {&full, &has_room}), Error);
}

TEST(SeveralBackends, OneThatFailsStopsTheOthersAndIsReported) {
  const Folder folder;
  for (const int count : {1, 2, 4})
    for (const int fail_at : {0, 3, 6}) {
      std::vector<std::unique_ptr<CountingBackend>> owned;
      std::vector<Backend*> backends;
      for (int b = 0; b < count; ++b)
        backends.push_back(owned.emplace_back(std::make_unique<CountingBackend>(true, fail_at)).get());
      try {
        write(folder, "fails.h5", sweep_request(), backends);
        FAIL() << "no error";
      } catch (const Error& error) {
        EXPECT_EQ(std::string(error.what()), "layer " + std::to_string(fail_at) + ": cannot be loaded");
      }
      for (const auto& backend : owned) EXPECT_EQ(backend->held, 0);
    }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path)) << "a replay that fails leaves no file";
}

TEST(SeveralBackends, AreCancelledTogether) {
  struct Impatient final : Job {
    mutable std::atomic<int> asked{0};
    bool cancelled() const override { return ++asked > 20; }
  };
  const Folder folder;
  const auto trace = make_memory_trace(sweep_contents());
  CountingBackend a(true), b(true);
  const std::vector<Backend*> backends = {&a, &b};
  Impatient job;
  {
    ResultsWriter writer(folder.path + "/r.h5");
    EXPECT_THROW(replay(*trace, sweep_request(), backends, writer, job), Cancelled);
  }
  EXPECT_EQ(a.held + b.held, 0);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path));
}

TEST(KeptSetsInAReplay, ChangeNothing) {
  const Folder folder;
  CountingBackend with(false), without(false);
  ReplayRequest request = sweep_request();
  const Written sets = write(folder, "sets.h5", request, {&with});
  request.scores = true;  // every run is given as evicted_at then
  const Written rows = write(folder, "rows.h5", request, {&without});
  expect_same_runs(sets, rows);
  EXPECT_GT(with.kept_sets, 7 * 4) << "snapkv and restkv at least";
  EXPECT_EQ(without.kept_sets, 0);
  for (int r = 0; r < sets.results->num_runs(); ++r) {
    const auto a = sets.results->evicted_at(r), b = rows.results->evicted_at(r);
    EXPECT_TRUE(std::equal(a.flat().begin(), a.flat().end(), b.flat().begin(), b.flat().end()));
  }
}

TEST(CacheAccounts, OfKeptSetsAreThoseOfTheirRows) {
  for (const int window : {0, 30}) {
    MemoryTraceContents contents = sweep_contents();
    contents.sliding_window.assign(7, window);
    const auto trace = make_memory_trace(contents);
    LoadedLayer layer;
    layer.trace = trace.get();
    layer.num_query_heads = trace->model().num_query_heads;
    layer.num_kv_heads = trace->model().num_kv_heads;
    layer.sliding_window = window;
    layer.tokens = trace->num_tokens();
    layer.prompt = trace->prompt_length();
    layer.first_candidate = window > 0 ? layer.prompt - window : 0;
    std::mt19937 random(7);
    KeptSets kept{{0}, {}};
    for (int h = 0; h < layer.num_kv_heads; ++h) {
      for (std::int64_t t = layer.first_candidate; t < layer.prompt; ++t)
        if (h > 0 && random() % 3 == 0) kept.position.push_back(static_cast<std::int32_t>(t));
      kept.offset.push_back(static_cast<std::int64_t>(kept.position.size()));
    }
    const auto rows = evicted_at_of(kept, layer.first_candidate, layer.prompt, layer.tokens);
    for (const auto hash : {CacheAccount::Hash::evicted_at, CacheAccount::Hash::kept_prompt}) {
      CacheAccount a(*trace, Granularity::kv_head, hash), b(*trace, Granularity::kv_head, hash);
      a.add_layer(layer, {{}, nullptr, &kept});
      b.add_layer(layer, {rows.view()});
      EXPECT_EQ(a.cache_bytes(), b.cache_bytes());
      EXPECT_EQ(a.peak_cache_bytes(), b.peak_cache_bytes()) << "window " << window;
      EXPECT_EQ(a.evicted_tokens(), b.evicted_tokens());
      EXPECT_EQ(a.sha256(), b.sha256());
      EXPECT_TRUE(a.head_emptied());
      EXPECT_TRUE(b.head_emptied());
    }
  }
}

TEST(SummaryOnly, HasTheMeansOfTheWholeFileAndNothingElse) {
  const Folder folder;
  const auto cpu = make_cpu_backend();
  ReplayRequest request = sweep_request();
  const Written whole = write(folder, "whole.h5", request, {cpu.get()});
  request.summary_only = true;
  const Written means = write(folder, "means.h5", request, {cpu.get()}),
                again = write(folder, "again.h5", request, {cpu.get()});
  EXPECT_LT(std::filesystem::file_size(means.path), std::filesystem::file_size(whole.path) / 2);
  ASSERT_EQ(means.results->num_runs(), whole.results->num_runs());
  for (int r = 0; r < means.results->num_runs(); ++r) {
    const RunInfo &a = means.results->info(r), &b = whole.results->info(r);
    EXPECT_EQ(a.summary, b.summary) << a.policy;
    EXPECT_EQ(a.notes, b.notes);
    EXPECT_EQ(a.peak_cache_bytes, b.peak_cache_bytes);
    EXPECT_TRUE(a.summary_only);
    EXPECT_EQ(a.kept_sha256, "");
    EXPECT_EQ(a.kept_prompt_sha256.size(), 64U);
    EXPECT_EQ(a.kept_prompt_sha256, again.results->info(r).kept_prompt_sha256);
    EXPECT_EQ(means.results->shape(r), whole.results->shape(r));
    EXPECT_TRUE(means.results->metric_names(r).empty());
    EXPECT_THROW(means.results->evicted_at(r), Error);
    EXPECT_THROW(means.results->evicted_at(r, 0), Error);
  }
  // A reader that knows version 1 alone expects evicted_at everywhere.
  const auto version = [](const Written& written) {
    return std::get<std::int64_t>(summarise_file(written.path, Trust::trusted).attributes.at("/").at("version"));
  };
  EXPECT_EQ(version(whole), 1);
  EXPECT_EQ(version(means), 2);
  // Same kept prompt tokens, same hash; block=16 keeps others.
  EXPECT_NE(means.runs[0].kept_prompt_sha256, means.runs[12].kept_prompt_sha256);

  Job job;
  EXPECT_TRUE(validate_file(means.path, Trust::trusted, job).problems.empty());
  EXPECT_TRUE(compare_files(means.path, again.path, {}, job).empty());
  for (const Difference& difference : compare_files(means.path, whole.path, {}, job))
    EXPECT_FALSE(difference.counts) << difference.where << ": " << difference.what;

  const Results* files[] = {means.results.get(), whole.results.get()};
  const Comparison of_means = compare({files[0]}, {}, job), of_whole = compare({files[1]}, {}, job);
  EXPECT_EQ(of_means.metrics, of_whole.metrics);
  for (std::size_t r = 0; r < of_means.runs.size(); ++r) {
    EXPECT_EQ(of_means.runs[r].evicted, of_whole.runs[r].evicted);
    EXPECT_EQ(of_means.runs[r].layers, of_whole.runs[r].layers);
    EXPECT_THAT(of_means.runs[r].notes, testing::Contains(testing::HasSubstr("summaries only")));
    for (const auto& [name, metric] : of_means.runs[r].metrics)
      EXPECT_EQ(metric.distribution.mean, means.runs[r].summary.at(name));
    EXPECT_TRUE(kept_share(of_means.runs[r]).empty());
  }
}

TEST(SummaryOnly, FindsAnotherKeptSet) {
  const Folder folder;
  const auto cpu = make_cpu_backend();
  ReplayRequest request;
  request.summary_only = true;
  request.budgets = {Budget::parse("40")};
  request.policies = {parse_policy("random:seed=1")};
  const Written one = write(folder, "one.h5", request, {cpu.get()});
  request.policies = {parse_policy("random:seed=2")};
  const Written two = write(folder, "two.h5", request, {cpu.get()});
  EXPECT_NE(one.runs[0].kept_prompt_sha256, two.runs[0].kept_prompt_sha256);
  EXPECT_EQ(one.runs[0].summary.at("cache_bytes"), two.runs[0].summary.at("cache_bytes"));
}

}  // namespace
}  // namespace kvreplay
