// Starts the child. Forking is fast and safe while this process has one thread and no HDF5 file open. Otherwise the same
// program is run again with a hidden argument, which the constructor function below sees before main() does: that works
// in every program that links this library, and a process with threads is never copied half-way through what they do.
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "core/base/error.h"
#include "core/trace/hdf5_internal.h"
#include "core/trace/sandbox_internal.h"

extern char** environ;

namespace kvreplay::sandbox {
namespace {

constexpr const char* hidden_argument = "--kvreplay-sandboxed-reader";
constexpr int child_socket = 3, child_memory = 4;
constexpr std::size_t memory_bytes = slot_bytes * slots;

[[noreturn]] void run_child(int socket, int memory_file) {
  // Ctrl-C is for the parent, which then closes the socket.
  signal(SIGINT, SIG_IGN);
  signal(SIGTERM, SIG_DFL);
  const int nothing = open("/dev/null", O_RDWR);
  for (const int standard : {0, 1, 2}) dup2(nothing, standard);
  dup2(socket, child_socket);
  dup2(memory_file, child_memory);
  syscall(SYS_close_range, 5U, ~0U, 0U);
  void* memory = mmap(nullptr, memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, child_memory, 0);
  if (memory == MAP_FAILED) _exit(1);
  limit_this_process();
  serve(child_socket, static_cast<std::byte*>(memory));
  _exit(0);
}

// Runs before main() with main's arguments (a property of glibc).
__attribute__((constructor)) void run_child_if_asked(int count, char** arguments, char**) {
  if (count == 2 && arguments != nullptr && std::strcmp(arguments[1], hidden_argument) == 0)
    run_child(child_socket, child_memory);
}

// Whether this code is part of the program itself, not of a shared library that some other program has loaded.
bool is_in_main_program() {
  static const bool found = [] {
    bool inside = false;
    dl_iterate_phdr(
        [](dl_phdr_info* object, std::size_t, void* result) {
          const auto here = reinterpret_cast<std::uintptr_t>(&run_child);
          for (int i = 0; i < object->dlpi_phnum; ++i) {
            const auto& segment = object->dlpi_phdr[i];
            const std::uintptr_t begin = object->dlpi_addr + segment.p_vaddr;
            if (segment.p_type == PT_LOAD && here >= begin && here < begin + segment.p_memsz)
              *static_cast<bool*>(result) = true;
          }
          return 1;  // the program comes first; look no further
        },
        &inside);
    return inside;
  }();
  return found;
}

bool has_one_thread() {
  std::error_code failure;
  int threads = 0;
  for (auto entry = std::filesystem::directory_iterator("/proc/self/task", failure);
       entry != std::filesystem::directory_iterator(); ++entry)
    ++threads;
  return threads == 1;
}

bool may_fork() {
  // KVREPLAY_SANDBOX=fork or =exec decides it, for tests.
  const char* wanted = std::getenv("KVREPLAY_SANDBOX");
  if (wanted != nullptr && std::strcmp(wanted, "exec") == 0) return false;
  if (wanted != nullptr && std::strcmp(wanted, "fork") == 0) return true;
  if (!is_in_main_program()) return true;
  const bool no_files = H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_FILE) <= 0;
  return no_files && has_one_thread();
}

// Away from the numbers that the child wants its own at.
int moved_up(int fd) {
  const int moved = fcntl(fd, F_DUPFD_CLOEXEC, 10);
  close(fd);
  return moved;
}

pid_t run_again(int socket, int memory_file) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, socket, child_socket);
  posix_spawn_file_actions_adddup2(&actions, memory_file, child_memory);
  std::string name = "kvreplay", argument = hidden_argument;
  char* arguments[] = {name.data(), argument.data(), nullptr};
  pid_t child = -1;
  if (posix_spawn(&child, "/proc/self/exe", &actions, nullptr, arguments, environ) != 0) child = -1;
  posix_spawn_file_actions_destroy(&actions);
  return child;
}

pid_t start(int socket, int memory_file) {
  pid_t child = -1;
  {
    // Held while forking: the child must not inherit HDF5 in the middle of a call.
    const hdf5::Guard guard;
    child = may_fork() ? fork() : run_again(socket, memory_file);
  }
  if (child == 0) run_child(socket, memory_file);
  return child;
}

}  // namespace

Process::Process() {
  int pair[2] = {-1, -1};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) throw Error("sandbox", std::strerror(errno));
  socket_ = moved_up(pair[0]);
  const int theirs = moved_up(pair[1]);
  const int memory_file = moved_up(memfd_create("kvreplay", MFD_CLOEXEC));
  void* memory = MAP_FAILED;
  if (memory_file >= 0 && ftruncate(memory_file, static_cast<off_t>(memory_bytes)) == 0)
    memory = mmap(nullptr, memory_bytes, PROT_READ, MAP_SHARED, memory_file, 0);
  if (memory != MAP_FAILED) {
    memory_ = static_cast<const std::byte*>(memory);
    child_ = start(theirs, memory_file);
  }
  close(theirs);
  if (memory_file >= 0) close(memory_file);
  if (child_ > 0) return;
  close(socket_);
  if (memory_ != nullptr) munmap(memory, memory_bytes);
  throw Error("sandbox", "no process can be started to read the file in", "--trusted reads it without one");
}

Process::~Process() {
  close(socket_);
  if (child_ > 0) {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
  }
  munmap(const_cast<std::byte*>(memory_), memory_bytes);
}

std::string Process::how_it_ended() {
  int status = 0;
  pid_t ended = 0;
  // It has closed its end, so it is on its way out; or it hangs, and is made to go.
  for (int i = 0; i < 100 && (ended = waitpid(child_, &status, WNOHANG)) == 0; ++i) usleep(2000);
  if (ended == 0) {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
    child_ = -1;
    return "took too long";
  }
  child_ = -1;
  if (ended > 0 && WIFSIGNALED(status)) {
    if (WTERMSIG(status) == SIGXCPU) return "took too long";
    return "crashed (" + std::string(strsignal(WTERMSIG(status))) + ")";
  }
  return "ended early";
}

}  // namespace kvreplay::sandbox
