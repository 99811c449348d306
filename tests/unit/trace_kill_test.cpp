// Does a capture that is killed at any moment keep everything that it committed, and can it go on?
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "core/base/error.h"
#include "core/trace/trace.h"
#include "core/trace/trace_writer.h"
#include "tests/unit/trace_samples.h"

extern char** environ;

namespace kvreplay {
namespace {

constexpr std::int64_t tokens = 1500, prompt = 900, early_end = 1300, block = 37;

TraceLayout layout_of_the_victim() {
  TraceLayout layout = samples::small_layout(tokens, prompt);
  layout.tensor_type = ElementType::float16;
  return layout;
}

// Runs one test of this program, which is meant to be killed, as a process of its own.
pid_t start_victim(const std::string& path, const char* test, const char* extra = "") {
  setenv("KVREPLAY_VICTIM_PATH", path.c_str(), 1);
  setenv("KVREPLAY_VICTIM_EXTRA", extra, 1);
  std::string filter = std::string("--gtest_filter=") + test;
  char program[] = "/proc/self/exe", also[] = "--gtest_also_run_disabled_tests", quiet[] = "--gtest_brief=1";
  char* arguments[] = {program, filter.data(), also, quiet, nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  EXPECT_EQ(posix_spawn(&child, "/proc/self/exe", &actions, nullptr, arguments, environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  return child;
}

std::string victim_path() {
  const char* path = std::getenv("KVREPLAY_VICTIM_PATH");
  return path == nullptr ? std::string() : path;
}

// Not a test of its own: what start_victim runs.
TEST(KilledCapture, DISABLED_Victim) {
  if (victim_path().empty()) GTEST_SKIP();
  const samples::TraceMaker maker(layout_of_the_victim(), 5);
  // Every other victim's generation ends early. Each says what it has committed, once the writer has said so.
  const std::int64_t last = std::getenv("KVREPLAY_VICTIM_EXTRA")[0] == '1' ? early_end : tokens;
  const int progress = open((victim_path() + ".progress").c_str(), O_WRONLY | O_CREAT, 0600);
  TraceWriter writer = TraceWriter::create(victim_path(), maker.layout);
  maker.go_on(writer, block, last, [&](std::int64_t committed) {
    ASSERT_EQ(pwrite(progress, &committed, sizeof committed, 0), static_cast<ssize_t>(sizeof committed));
  });
  writer.finish(last);
}

std::int64_t promised(const std::string& path) {
  std::int64_t tokens_promised = 0;
  std::ifstream file(path + ".progress", std::ios::binary);
  file.read(reinterpret_cast<char*>(&tokens_promised), sizeof tokens_promised);
  return tokens_promised;
}

TEST(KilledCapture, LosesNothingThatWasCommittedAndGoesOn) {
  const unsigned seed = 20240611;
  std::mt19937 random(seed);
  SCOPED_TRACE("seed " + std::to_string(seed));
  const samples::TraceMaker maker(layout_of_the_victim(), 5);
  int killed_inside = 0, in_the_prompt = 0, resumed = 0;
  // How many kills fall where depends on the machine, so there are as many as it takes.
  const auto enough = [&] { return killed_inside >= 30 && in_the_prompt >= 3 && resumed >= 6; };
  for (int trial = 0; trial < 240 && !enough(); ++trial) {
    const samples::TemporaryFolder folder;
    const std::string path = folder.file("t.h5");
    const pid_t child = start_victim(path, "KilledCapture.DISABLED_Victim", trial % 2 == 0 ? "0" : "1");
    while (!std::filesystem::exists(path + ".partial")) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 300000));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFSIGNALED(status) || std::filesystem::exists(path)) continue;  // it was done before
    std::int64_t kept = 0;
    try {
      const auto trace = open_trace(path + ".partial");
      kept = trace->num_tokens();
      EXPECT_GE(kept, promised(path));
      EXPECT_EQ(trace->prompt_length(), std::min(prompt, kept));
      // Every block is a commit, and blocks end at the end of the prompt too.
      const bool last = kept == tokens || (trial % 2 == 1 && kept == early_end);
      EXPECT_TRUE(last || (kept <= prompt ? kept % block == 0 || kept == prompt : (kept - prompt) % block == 0)) << kept;
      maker.expect_equal(*trace, kept);
      ++killed_inside;
      if (trace->complete()) {  // between the last flush and the renaming
        EXPECT_TRUE(last);
        continue;
      }
      in_the_prompt += kept < prompt ? 1 : 0;
    } catch (const Error& error) {
      EXPECT_EQ(promised(path), 0) << error.what();
    }
    // A generation that had ended early has nothing to go on with.
    if (trial % 3 != 0 || kept == 0 || (trial % 2 == 1 && kept == early_end)) continue;
    TraceWriter writer = TraceWriter::resume(path, maker.layout);
    EXPECT_EQ(writer.committed(), kept);
    maker.go_on(writer, 101, tokens);
    writer.finish(tokens);
    const auto trace = open_trace(path);
    EXPECT_TRUE(trace->complete());
    maker.expect_equal(*trace, tokens);
    ++resumed;
    if (HasFailure()) return;
  }
  std::printf("killed inside the capture: %d, of these in the prompt: %d, resumed: %d\n", killed_inside, in_the_prompt,
              resumed);
  EXPECT_TRUE(enough());
}

}  // namespace
}  // namespace kvreplay
