#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <utility>
#include <vector>

#include "core/trace/sandbox_internal.h"

namespace kvreplay::sandbox {
namespace {

constexpr rlim_t memory_allowed = rlim_t{1} << 30;  // on top of what the process has when it starts

// The sanitizers reserve terabytes of addresses for themselves.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool limit_memory = false;
#else
constexpr bool limit_memory = true;
#endif

rlim_t address_space_now() {
  unsigned long pages = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "re")) {
    if (std::fscanf(file, "%lu", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  return static_cast<rlim_t>(pages) * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
}

void set_limit(__rlimit_resource resource, rlim_t value) {
  const rlimit limit{value, value};
  setrlimit(resource, &limit);
}

}  // namespace

void limit_this_process() {
  if (limit_memory) set_limit(RLIMIT_AS, address_space_now() + memory_allowed);
  set_limit(RLIMIT_CORE, 0);
  set_limit(RLIMIT_FSIZE, 0);  // no file can grow
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

void allow_cpu_seconds(int cpu_seconds) {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto spent = static_cast<rlim_t>(used.ru_utime.tv_sec + used.ru_stime.tv_sec);
  rlimit limit{};
  getrlimit(RLIMIT_CPU, &limit);
  limit.rlim_cur = spent + static_cast<rlim_t>(cpu_seconds) + 1;
  if (limit.rlim_max != RLIM_INFINITY && limit.rlim_cur > limit.rlim_max) limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_CPU, &limit);
}

// What a reader never does: run programs, start processes, open sockets or files to write, rename or remove anything.
// The kernel answers "not permitted". Where it cannot filter system calls, the other limits have to do.
void forbid_system_calls() {
#if defined(__x86_64__)
  std::vector<sock_filter> program;
  const auto load = [&](std::size_t offset) {
    program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<unsigned>(offset)));
  };
  const sock_filter deny = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1U);  // EPERM
  const sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  load(offsetof(seccomp_data, arch));
  program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
  program.push_back(deny);
  load(offsetof(seccomp_data, nr));
  for (const unsigned call : {SYS_execve,
                              SYS_execveat,
                              SYS_fork,
                              SYS_vfork,
                              SYS_clone,
                              SYS_clone3,
                              SYS_socket,
                              SYS_connect,
                              SYS_bind,
                              SYS_ptrace,
                              SYS_process_vm_readv,
                              SYS_process_vm_writev,
                              SYS_kill,
                              SYS_tkill,
                              SYS_unlink,
                              SYS_unlinkat,
                              SYS_rename,
                              SYS_renameat,
                              SYS_renameat2,
                              SYS_truncate,
                              SYS_ftruncate,
                              SYS_mkdir,
                              SYS_mkdirat,
                              SYS_rmdir,
                              SYS_link,
                              SYS_linkat,
                              SYS_symlink,
                              SYS_symlinkat,
                              SYS_chmod,
                              SYS_fchmodat,
                              SYS_chown,
                              SYS_fchownat,
                              SYS_mknod,
                              SYS_mknodat,
                              SYS_creat,
                              SYS_openat2,
                              SYS_io_uring_setup}) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1));
    program.push_back(deny);
  }
  // Threads, but no processes. clone3 has its flags in memory, where a filter cannot look: without it, glibc uses clone.
  program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1));
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 38U));  // ENOSYS
  program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 4));
  load(offsetof(seccomp_data, args));
  program.push_back(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 1, 0));
  program.push_back(deny);
  program.push_back(allow);
  // open and openat: for reading only. The flags are their second and third argument.
  const std::pair<unsigned, std::size_t> opens[] = {{SYS_open, 1}, {SYS_openat, 2}};
  for (const auto& [call, argument] : opens) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 4));
    load(offsetof(seccomp_data, args) + argument * sizeof(std::uint64_t));
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0, 1));
    program.push_back(deny);
    program.push_back(allow);
  }
  program.push_back(allow);
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0);
#endif
}

}  // namespace kvreplay::sandbox
