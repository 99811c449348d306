// Files: are traces, results and sessions opened in the background, and is everything that can be wrong with them said in
// place?
#include "gui/model/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <fstream>

#include "core/replay/replay.h"
#include "tests/gui/example.h"

namespace kvreplay::gui {
namespace {

using testing::HasSubstr;

class Sessions : public testing::Test {
 protected:
  Sessions() : session(store, [] { return make_cpu_backend(); }) {
    QObject::connect(&store, &Store::message, &store,
                     [this](const QString& text, bool) { messages += text.toStdString() + "\n"; });
  }
  std::string path(const std::string& name) const { return (folder.path / name).string(); }
  std::string write_trace(const std::string& name, std::uint64_t seed = 7) const {
    SyntheticParameters parameters = example_parameters();
    parameters.seed = seed;
    Job job;
    write_synthetic(path(name), parameters, job);
    return path(name);
  }
  std::string write_results(const std::string& trace, const std::string& name) const {
    ReplayRequest request;
    request.policies = {parse_policy("snapkv"), parse_policy("restkv")};
    request.budgets = {Budget::parse("50%")};
    ResultsWriter writer(path(name));
    Job job;
    const auto backend = make_cpu_backend();
    replay(*open_trace(trace), request, *backend, writer, job);
    writer.finish();
    return path(name);
  }
  bool settle() {
    return wait_until([&] {
      for (const Side side : {Side::a, Side::b})
        if (store.spec(side) != nullptr &&
            (store.run(side) == nullptr || (!store.run(side)->complete && store.run(side)->problem.empty())))
          return false;
      return session.idle();
    });
  }
  std::string problem_of(const std::string& file) const {
    for (const FileEntry& entry : store.state().files)
      if (entry.path == file) return store.file_problem(entry.id);
    return "not listed";
  }

  Folder folder;
  Store store;
  Session session;
  std::string messages;
};

TEST_F(Sessions, ATraceOpensWithTwoRuns) {
  session.open(write_trace("t.h5"));
  ASSERT_TRUE(settle());
  ASSERT_NE(store.run_a(), nullptr);
  ASSERT_NE(store.run_b(), nullptr);
  EXPECT_EQ(store.run_a()->info.preset, "snapkv");
  EXPECT_EQ(store.run_b()->info.preset, "restkv");
  EXPECT_TRUE(store.run_a()->complete);
}

TEST_F(Sessions, ResultsBringTheirTrace) {
  const std::string trace = write_trace("t.h5");
  session.open(write_results(trace, "r.h5"));
  ASSERT_TRUE(wait_until([&] { return session.idle() && store.state().runs.size() >= 2; }));
  const RunSpec& spec = store.state().runs.back();
  EXPECT_EQ(spec.source, RunSpec::Source::results);
  store.select_run(Side::a, spec.id);
  ASSERT_TRUE(settle());
  EXPECT_EQ(store.run_a()->problem, "");
  EXPECT_NE(store.run_a()->layer(2), nullptr);
  EXPECT_EQ(store.run_a()->info.preset, "restkv");
}

TEST_F(Sessions, ResultsOfAnotherTraceSaySo) {
  const std::string trace = write_trace("t.h5"), results = write_results(trace, "r.h5");
  std::filesystem::remove(trace);
  write_trace("t.h5", 8);
  session.open(results);
  ASSERT_TRUE(wait_until([&] { return session.idle() && !problem_of(results).empty(); }));
  EXPECT_THAT(problem_of(results), HasSubstr("open the trace that it was made from"));
  ASSERT_TRUE(settle());
  EXPECT_NE(store.document(), nullptr);  // the other trace is there to be looked at
}

TEST_F(Sessions, WhatIsNoTraceSaysSo) {
  std::ofstream(path("note.h5")) << "hello";
  session.open(path("note.h5"));
  session.open(path("nowhere.h5"));
  ASSERT_TRUE(wait_until([&] { return session.idle(); }));
  EXPECT_THAT(problem_of(path("note.h5")), HasSubstr("note.h5"));
  EXPECT_THAT(problem_of(path("nowhere.h5")), HasSubstr("nowhere.h5"));
  EXPECT_EQ(store.document(), nullptr);
}

TEST_F(Sessions, ACutFileSaysSoAndCanBeReadAgain) {
  const std::string trace = write_trace("t.h5"), whole = path("whole.h5");
  std::filesystem::copy_file(trace, whole);
  std::filesystem::resize_file(trace, std::filesystem::file_size(trace) / 3);
  session.open(trace);
  ASSERT_TRUE(wait_until([&] { return session.idle(); }));
  EXPECT_NE(problem_of(trace), "");
  std::filesystem::copy_file(whole, trace, std::filesystem::copy_options::overwrite_existing);
  session.reload(store.state().files.front().id);
  ASSERT_TRUE(settle());
  EXPECT_EQ(problem_of(trace), "");
  EXPECT_NE(store.run_a(), nullptr);
}

TEST_F(Sessions, ATraceWithoutAnOutputProjectionIsShown) {
  SyntheticParameters parameters = example_parameters();
  parameters.output_projection = SyntheticParameters::OutputProjection::none;
  Job job;
  write_synthetic(path("t.h5"), parameters, job);
  session.open(path("t.h5"));
  ASSERT_TRUE(settle());
  ASSERT_NE(store.document(), nullptr);
  ASSERT_FALSE(store.document()->health().empty());
  EXPECT_THAT(store.document()->health().front().text, HasSubstr("W_o"));
  EXPECT_EQ(store.run_a()->problem, "");
  EXPECT_THAT(store.run_b()->problem, HasSubstr("output_projection"));  // restkv needs it
}

TEST_F(Sessions, ComeBackAsTheyWereSaved) {
  session.open(write_trace("t.h5"));
  ASSERT_TRUE(settle());
  store.select_layer(2);
  store.select_tokens({{10, 20}});
  store.set_zoom("tokens", {5, 50});
  store.set_view("eviction_map", "rows", "layers");
  session.save(path("s.json"));
  const AppState saved = store.state();

  Store other;
  Session restored(other, [] { return make_cpu_backend(); });
  restored.open(path("s.json"));
  ASSERT_TRUE(wait_until([&] { return restored.idle() && other.run_a() != nullptr && other.run_a()->complete; }));
  EXPECT_EQ(other.state().selection, saved.selection);
  EXPECT_EQ(other.state().runs, saved.runs);
  EXPECT_EQ(other.state().zoom, saved.zoom);
  EXPECT_EQ(other.view("eviction_map", "rows", ""), "layers");
  EXPECT_EQ(other.run_a()->info.kept_sha256, store.run_a()->info.kept_sha256);
}

TEST_F(Sessions, SayWhenAFileIsNotTheSameAnyMore) {
  const std::string trace = write_trace("t.h5");
  session.open(trace);
  ASSERT_TRUE(settle());
  session.save(path("s.json"));
  std::filesystem::remove(trace);
  write_trace("t.h5", 99);
  session.open(path("s.json"));
  ASSERT_TRUE(settle());
  EXPECT_THAT(messages, HasSubstr("is not the file that the session was saved with"));
  EXPECT_NE(store.run_a(), nullptr);
}

TEST_F(Sessions, ThatCannotBeReadLeaveEverythingAsItWas) {
  session.open(write_trace("t.h5"));
  ASSERT_TRUE(settle());
  const auto runs = store.state().runs;
  std::ofstream(path("broken.json")) << "{\"kvreplay_session\": 1, \"runs\": 7}";
  session.open(path("broken.json"));
  EXPECT_THAT(messages, HasSubstr("/runs must be a list"));
  EXPECT_EQ(store.state().runs, runs);
}

TEST_F(Sessions, KeepARunWhoseFileVanishes) {
  const std::string trace = write_trace("t.h5");
  session.open(trace);
  ASSERT_TRUE(settle());
  std::filesystem::remove(trace);
  RunSpec spec = *store.spec(Side::a);
  spec.budget = "70%";
  store.change_run(spec);
  ASSERT_TRUE(settle());
  // Open files stay readable; if not, the run says why and the window goes on.
  EXPECT_TRUE(store.run_a()->complete || !store.run_a()->problem.empty());
  EXPECT_NE(store.document(), nullptr);
}

}  // namespace
}  // namespace kvreplay::gui
