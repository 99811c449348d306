#include "trace_tools/terminal_job.h"

#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>

#include "core/base/text.h"

namespace kvreplay::cli {
namespace {

std::atomic<bool> interrupted{false};

void on_interrupt(int signal) {
  // A second Ctrl-C does not wait for the work to notice the first.
  if (interrupted.exchange(true)) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

}  // namespace

TerminalJob::TerminalJob() : terminal_(isatty(STDERR_FILENO) != 0) {
  std::signal(SIGINT, on_interrupt);
  std::signal(SIGTERM, on_interrupt);
}

TerminalJob::~TerminalJob() { clear(); }

void TerminalJob::begin(std::string_view task, double total, std::string_view unit) {
  clear();
  task_ = task;
  unit_ = unit;
  total_ = total;
  started_ = last_drawn_ = std::chrono::steady_clock::now();
}

void TerminalJob::advance_to(double done) {
  using namespace std::chrono_literals;
  const auto now = std::chrono::steady_clock::now();
  // Nothing is shown for what ends within a second; after that at most ten times a second.
  if (!terminal_ || now - started_ < 1s || now - last_drawn_ < 100ms) return;
  last_drawn_ = now;
  draw(done, false);
}

void TerminalJob::end() { clear(); }

void TerminalJob::warn(std::string_view message) {
  clear();
  std::fprintf(stderr, "warning: %s\n", printable(message).c_str());
}

void TerminalJob::inform(std::string_view message) {
  clear();
  std::fprintf(stderr, "%s\n", printable(message).c_str());
}

bool TerminalJob::cancelled() const { return interrupted.load(std::memory_order_relaxed); }

void TerminalJob::draw(double done, bool) {
  const double share = total_ > 0 ? std::clamp(done / total_, 0.0, 1.0) : 0.0;
  const double spent = std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
  constexpr int width = 24;
  const int filled = static_cast<int>(share * width);
  std::string bar(static_cast<std::size_t>(filled), '=');
  bar.resize(width, ' ');
  const std::string left = share > 0.01 ? ", " + format_seconds(spent * (1 - share) / share) + " left" : "";
  std::fprintf(stderr, "\r\x1b[K%s [%s] %3.0f %%  %s / %s %s  %s%s", task_.c_str(), bar.c_str(), share * 100,
               format_number(static_cast<double>(static_cast<long long>(done))).c_str(), format_number(total_).c_str(),
               unit_.c_str(), format_seconds(spent).c_str(), left.c_str());
  std::fflush(stderr);
  drawn_ = true;
}

void TerminalJob::clear() {
  if (drawn_) std::fputs("\r\x1b[K", stderr);
  drawn_ = false;
}

}  // namespace kvreplay::cli
