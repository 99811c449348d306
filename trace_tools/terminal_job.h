// Progress on a terminal with time spent and left, warnings on the error stream, Ctrl-C as a request to stop.
#pragma once

#include <chrono>
#include <string>

#include "core/base/job.h"

namespace kvreplay::cli {

class TerminalJob final : public Job {
 public:
  TerminalJob();  // installs the SIGINT and SIGTERM handlers
  ~TerminalJob() override;
  void begin(std::string_view task, double total, std::string_view unit) override;
  void advance_to(double done) override;
  void end() override;
  void warn(std::string_view message) override;
  void inform(std::string_view message) override;
  bool cancelled() const override;

 private:
  void draw(double done, bool last);
  void clear();
  bool terminal_ = false;
  bool drawn_ = false;
  std::string task_, unit_;
  double total_ = 0;
  std::chrono::steady_clock::time_point started_, last_drawn_;
};

}  // namespace kvreplay::cli
