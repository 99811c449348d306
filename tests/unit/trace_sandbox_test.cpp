// Does a stranger's file harm nothing but its own reader?
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "core/base/error.h"
#include "core/trace/identity.h"
#include "core/trace/results.h"
#include "core/trace/sandbox_internal.h"
#include "core/trace/source_internal.h"
#include "core/trace/trace.h"
#include "core/trace/validate.h"
#include "tests/unit/trace_samples.h"

namespace kvreplay {
namespace {

std::string golden(const std::string& name) { return std::string(KVREPLAY_SOURCE_DIR) + "/tests/golden/" + name; }

std::vector<pid_t> children_of_this_process() {
  std::vector<pid_t> children;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream list(task.path() / "children");
    for (pid_t child = 0; list >> child;) children.push_back(child);
  }
  return children;
}

class Sandbox : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { setenv("KVREPLAY_SANDBOX", GetParam(), 1); }
  void TearDown() override { unsetenv("KVREPLAY_SANDBOX"); }
};

TEST_P(Sandbox, GivesWhatDirectReadingGives) {
  for (const char* name : {"layers.h5", "mqa_long.h5"}) {
    // The child first: forked with the same file open here, HDF5 would take the child's for the one it has already.
    const auto boxed = open_trace(golden(name), Trust::sandboxed), direct = open_trace(golden(name), Trust::trusted);
    EXPECT_EQ(direct->token_ids(), boxed->token_ids());
    EXPECT_EQ(direct->model().name, boxed->model().name);
    for (const int layer : direct->layers())
      for (const auto which : {LayerDataset::key, LayerDataset::query, LayerDataset::output_projection}) {
        const auto a = direct->read(layer, which), b = boxed->read(layer, which);
        ASSERT_EQ(a.shape(), b.shape());
        EXPECT_TRUE(std::equal(a.flat().begin(), a.flat().end(), b.flat().begin()));
      }
    const auto a = direct->read(0, LayerDataset::query, {1, 2}, {100, 117}),
               b = boxed->read(0, LayerDataset::query, {1, 2}, {100, 117});
    EXPECT_TRUE(std::equal(a.flat().begin(), a.flat().end(), b.flat().begin()));
  }
}

TEST_P(Sandbox, ACrashOfTheReaderIsAnError) {
  const auto trace = open_trace(golden("layers.h5"), Trust::sandboxed);
  const auto children = children_of_this_process();
  ASSERT_FALSE(children.empty());
  for (const pid_t child : children) kill(child, SIGKILL);  // a sanitizer would catch SIGSEGV
  try {
    trace->read(0, LayerDataset::key);
    FAIL() << "read from a dead process";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("crashed"), std::string::npos) << error.what();
  }
  EXPECT_THROW(trace->read(0, LayerDataset::value), Error);  // and stays one
}

TEST_P(Sandbox, ComputingForTooLongIsAnError) {
  const auto trace = open_trace(golden("layers.h5"), Trust::sandboxed);
  for (const pid_t child : children_of_this_process()) kill(child, SIGXCPU);
  try {
    trace->read(0, LayerDataset::key);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("took too long"), std::string::npos) << error.what();
  }
}

TEST_P(Sandbox, SeveralThreadsReadOneTrace) {
  const auto trace = open_trace(golden("mqa_long.h5"), Trust::sandboxed);
  const auto whole = open_trace(golden("mqa_long.h5"), Trust::trusted)->read(0, LayerDataset::query);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20; ++i) {
        const auto part = trace->read(0, LayerDataset::query, {t % 2, t % 2 + 1}, {i * 50, i * 50 + 60});
        if (part(0, 59, 3) != whole(t % 2, i * 50 + 59, 3)) ++wrong;
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_P(Sandbox, LeavesNoProcessBehind) {
  { const auto trace = open_trace(golden("layers.h5"), Trust::sandboxed); }
  EXPECT_TRUE(children_of_this_process().empty());
}

INSTANTIATE_TEST_SUITE_P(StartedBy, Sandbox, testing::Values("fork", "exec"),
                         [](const auto& started) { return std::string(started.param); });

// A child that tries what a hostile file might; its exit code says which attempts were refused.
TEST(SandboxLimits, AReaderCannotWriteRunOrConnect) {
  const samples::TemporaryFolder folder;
  const std::string path = folder.file("x");
  const pid_t child = fork();
  if (child == 0) {
    const int before = open(folder.file("before").c_str(), O_WRONLY | O_CREAT, 0600);
    signal(SIGXFSZ, SIG_IGN);
    sandbox::limit_this_process();
    sandbox::forbid_system_calls();
    int failed = 0;
    if (open(path.c_str(), O_WRONLY | O_CREAT, 0600) < 0) failed |= 1;
    if (socket(AF_INET, SOCK_STREAM, 0) < 0) failed |= 2;
    if (execl("/bin/true", "true", nullptr) < 0) failed |= 4;
    if (fork() < 0) failed |= 8;
    if (write(before, "x", 1) < 0) failed |= 16;
    if (open("/dev/null", O_RDONLY) >= 0) failed |= 32;  // reading is allowed
    _exit(failed);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 63);
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Trust, OwnFilesAreRecognisedUntilTheyChange) {
  const samples::TemporaryFolder folder;
  setenv("XDG_STATE_HOME", folder.file("state").c_str(), 1);
  const samples::TraceMaker maker(samples::small_layout(20, 16), 1);
  const std::string path = folder.file("t.h5");
  maker.write(path, 20);
  EXPECT_TRUE(is_file_written_here(path));
  std::filesystem::copy_file(path, folder.file("copy.h5"));
  EXPECT_FALSE(is_file_written_here(folder.file("copy.h5")));
  std::ofstream(path, std::ios::app) << "x";
  EXPECT_FALSE(is_file_written_here(path));
  // The list stays bounded, and a state folder that cannot be written to does no harm.
  {
    std::ofstream list(folder.file("state/kvreplay/written"), std::ios::app);
    for (int i = 0; i < 6000; ++i) list << "1 2 " << i << " 4.5\n";
  }
  remember_written_file(folder.file("copy.h5"));
  EXPECT_TRUE(is_file_written_here(folder.file("copy.h5")));
  EXPECT_LT(std::filesystem::file_size(folder.file("state/kvreplay/written")), 2100U * 64);
  setenv("XDG_STATE_HOME", "/proc/nowhere", 1);
  remember_written_file(path);
  EXPECT_FALSE(is_file_written_here(path));
  unsetenv("XDG_STATE_HOME");
}

// Damaged copies of good files: whatever they make HDF5 do, here they are an Error or a list of problems.
// KVREPLAY_FUZZ_TRIALS asks for more than the few that every run makes.
TEST(DamagedFiles, NeverHarmTheirReader) {
  const char* wanted = std::getenv("KVREPLAY_FUZZ_TRIALS");
  const int trials = wanted == nullptr ? 60 : std::atoi(wanted);
  const char* wanted_seed = std::getenv("KVREPLAY_FUZZ_SEED");
  const unsigned seed = wanted_seed == nullptr ? 11 : static_cast<unsigned>(std::atoi(wanted_seed));
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const samples::TemporaryFolder folder;
  samples::TraceMaker(samples::small_layout(60, 48), 3).write(folder.file("own.h5"), 30);
  const std::vector<std::string> originals = {golden("mha_odd.h5"), golden("layers.h5"), folder.file("own.h5")};
  Job job;
  int refused = 0, listed = 0, clean = 0, crashed = 0;
  for (int trial = 0; trial < trials; ++trial) {
    std::ifstream original(originals[static_cast<std::size_t>(trial) % originals.size()], std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(original)), {});
    // The structure lies in the first kilobytes or between small datasets: most flips go there.
    const std::size_t reach = random() % 3 == 0 ? bytes.size() : std::min<std::size_t>(bytes.size(), 16384);
    if (random() % 4 == 0)
      bytes.resize(random() % bytes.size());
    else
      for (unsigned n = 1 + random() % 8; n > 0; --n) bytes[random() % reach] ^= static_cast<char>(1U << (random() % 8));
    const std::string damaged = folder.file("damaged.h5");
    std::ofstream(damaged, std::ios::binary) << bytes;
    try {
      const auto report = validate_file(damaged, Trust::sandboxed, job);
      ++(report.problems.empty() ? clean : listed);
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_EQ(text.find('\n'), std::string::npos);
      const bool lost = text.find("child process") != std::string::npos;
      ++(lost ? crashed : refused);
      // For a closer look at what did it.
      if (const char* keep = std::getenv("KVREPLAY_FUZZ_KEEP"); lost && keep != nullptr)
        std::filesystem::copy_file(damaged, std::string(keep) + "/" + std::to_string(trial) + ".h5",
                                   std::filesystem::copy_options::overwrite_existing);
    }
  }
  std::printf("%d damaged files: %d refused, %d with problems listed, %d crashed or hung their reader, %d unharmed\n",
              trials, refused, listed, crashed, clean);
  EXPECT_TRUE(children_of_this_process().empty());
}

}  // namespace
}  // namespace kvreplay
