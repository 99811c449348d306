// One wanted run while it is being made: which piece comes next, and doing it. Internal to gui/model.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/replay/live.h"
#include "gui/model/evaluator.h"

namespace kvreplay::gui {

// What is on screen.
struct Look {
  int layer = 0, step = 0;
};

// A piece of work that is done without a pause; the smaller the number, the sooner.
struct Piece {
  enum class Kind : std::uint8_t { plan, evict, measure, finish };
  Kind kind = Kind::plan;
  int urgency = 0;
  int layer = 0;
  IndexRange steps;  // of measure
};
inline constexpr int first_picture = 0;  // the urgency of what the first picture waits for

class RunTask {
 public:
  explicit RunTask(RunRequest request);
  virtual ~RunTask() = default;

  const RunRequest& request() const { return request_; }
  void set_on_screen(bool on_screen) { request_.on_screen = on_screen; }
  // Nothing when it is done or has failed.
  virtual std::optional<Piece> next(const Look& look) const = 0;
  // Throws Error, after which the task has failed, and Cancelled, after which the piece is done again.
  virtual void work(const Piece& piece) = 0;
  virtual double done() const = 0;  // in [0, 1]
  std::shared_ptr<const Run> snapshot() const { return std::make_shared<const Run>(run_); }
  void fail(const std::string& problem);
  void set_stopped(bool stopped) { stopped_ = stopped; }  // nothing is next while it is

 protected:
  bool ended() const { return stopped_ || run_.complete || !run_.problem.empty(); }
  int urgency(int of_screen) const { return of_screen + (request_.on_screen ? 0 : 10); }

  RunRequest request_;
  Run run_;
  bool stopped_ = false;
};

std::unique_ptr<RunTask> make_live_task(RunRequest request, std::shared_ptr<LiveReplay> live);
std::unique_ptr<RunTask> make_results_task(RunRequest request);

}  // namespace kvreplay::gui
