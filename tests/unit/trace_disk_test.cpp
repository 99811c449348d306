// What happens to a capture when the disk is full or cannot be written to?
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/base/error.h"
#include "core/trace/results.h"
#include "core/trace/trace.h"
#include "core/trace/trace_writer.h"
#include "tests/unit/trace_samples.h"

extern char** environ;

namespace kvreplay {
namespace {

TraceLayout layout_on_the_full_disk() { return samples::small_layout(1200, 1000); }

// Run by the test below as a process of its own, where no file may grow past a limit: to HDF5 that is a full disk.
TEST(FullDisk, DISABLED_Victim) {
  const char* path = std::getenv("KVREPLAY_VICTIM_PATH");
  if (path == nullptr) GTEST_SKIP();
  signal(SIGXFSZ, SIG_IGN);
  const samples::TraceMaker maker(layout_on_the_full_disk(), 9);
  std::string message;
  {
    const rlimit limit{6U << 20, 6U << 20};
    setrlimit(RLIMIT_FSIZE, &limit);
    TraceWriter writer = TraceWriter::create(path, maker.layout);
    try {
      maker.go_on(writer, 100, 1200);
      writer.finish(1200);
      message = "was not stopped";
    } catch (const Error& error) {
      message = error.what();
    }
  }
  std::ofstream(std::string(path) + ".message") << message;
}

TEST(FullDisk, IsAnErrorAndWhatWasCommittedStays) {
  const samples::TemporaryFolder folder;
  const std::string path = folder.file("t.h5");
  setenv("KVREPLAY_VICTIM_PATH", path.c_str(), 1);
  char program[] = "kvreplay_unit_tests", filter[] = "--gtest_filter=FullDisk.DISABLED_Victim",
       also[] = "--gtest_also_run_disabled_tests";
  char* arguments[] = {program, filter, also, nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  ASSERT_EQ(posix_spawn(&child, "/proc/self/exe", &actions, nullptr, arguments, environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  unsetenv("KVREPLAY_VICTIM_PATH");
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status)) << "killed by signal " << (WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  std::string message;
  std::getline(std::ifstream(path + ".message"), message);
  EXPECT_NE(message.find("cannot be written"), std::string::npos) << message;

  const samples::TraceMaker maker(layout_on_the_full_disk(), 9);
  ASSERT_TRUE(std::filesystem::exists(path + ".partial"));
  {
    const auto trace = open_trace(path + ".partial");
    EXPECT_GT(trace->num_tokens(), 0);
    EXPECT_LT(trace->num_tokens(), 1200);
    maker.expect_equal(*trace, trace->num_tokens());
  }

  // With room again, it goes on.
  TraceWriter writer = TraceWriter::resume(path, maker.layout);
  maker.go_on(writer, 100, 1200);
  writer.finish(1200);
  maker.expect_equal(*open_trace(path), 1200);
}

TEST(FullDisk, IsNoticedBeforeTheFirstByte) {
  const samples::TemporaryFolder folder;
  TraceLayout layout = samples::small_layout(100, 90);
  layout.model.hidden_size = layout.model.head_dim = 1 << 20;
  layout.model.num_query_heads = layout.model.num_kv_heads = 1 << 12;
  layout.text_bytes = -1;
  try {
    TraceWriter::create(folder.file("t.h5"), layout);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("free"), std::string::npos) << error.what();
  }
  EXPECT_TRUE(std::filesystem::is_empty(std::filesystem::path(folder.file("t.h5")).parent_path()));
}

TEST(NoPermission, IsAnErrorThatNamesThePath) {
  const samples::TraceMaker maker(samples::small_layout(20, 16), 1);
  for (const char* path : {"/proc/t.h5", "/nowhere/at/all/t.h5"}) {
    try {
      maker.write(path, 20);
      FAIL();
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(std::filesystem::path(path).parent_path()), std::string::npos)
          << error.what();
    }
    EXPECT_THROW(ResultsWriter{path}, Error);
  }
}

TEST(CutCapture, IsNotOverwrittenByAccident) {
  const samples::TemporaryFolder folder;
  const std::string path = folder.file("t.h5");
  const samples::TraceMaker maker(samples::small_layout(60, 50), 2);
  {
    TraceWriter writer = TraceWriter::create(path, maker.layout);
    maker.go_on(writer, 20, 40);
  }
  EXPECT_EQ(open_trace(path + ".partial")->num_tokens(), 40);
  EXPECT_EQ(open_trace(path + ".partial")->prompt_length(), 40);
  EXPECT_THROW(TraceWriter::create(path, maker.layout), Error);
  samples::TraceMaker other(samples::small_layout(60, 51), 2);
  EXPECT_THROW(TraceWriter::resume(path, other.layout), Error);
  other = samples::TraceMaker(samples::small_layout(60, 50), 2);
  other.layout.manifest = R"({"model": "another", "seed": 7})";
  EXPECT_THROW(TraceWriter::resume(path, other.layout), Error);
  EXPECT_EQ(TraceWriter::resume(path, maker.layout).committed(), 40);
}

TEST(CutCapture, WithNothingCommittedIsRemoved) {
  const samples::TemporaryFolder folder;
  const std::string path = folder.file("t.h5");
  { TraceWriter::create(path, samples::small_layout(60, 50)); }
  EXPECT_FALSE(std::filesystem::exists(path + ".partial"));
}

}  // namespace
}  // namespace kvreplay
