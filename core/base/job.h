// Progress and cancelling, one type for the command line, the desktop program and tests. Long operations take a Job&,
// report through it and call check() between pieces of work; the library itself never prints.
//
//   job.begin("replaying", total_layers, "layers");
//   for (...) { job.check(); ...; job.advance_to(done); }
//   job.end();
#pragma once

#include <string_view>

#include "core/base/error.h"

namespace kvreplay {

class Job {
 public:
  virtual ~Job() = default;
  virtual void begin(std::string_view /*task*/, double /*total*/, std::string_view /*unit*/) {}
  virtual void advance_to(double /*done*/) {}
  virtual void end() {}
  // Something the user should know although the operation goes on ("prompt shorter than the window: nothing evicted").
  virtual void warn(std::string_view /*message*/) {}
  // Something worth knowing before a long operation begins ("takes 2.9 GB of 140 GB on cuda").
  virtual void inform(std::string_view /*message*/) {}
  virtual bool cancelled() const { return false; }
  void check() const {
    if (cancelled()) throw Cancelled();
  }
};

}  // namespace kvreplay
