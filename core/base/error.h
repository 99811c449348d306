// The one exception type that crosses library boundaries, and what a caller can rely on.
//
// Every error says where (a file, a dataset in it, an option), what is wrong, and what to do about it. what() is a
// single line: "WHERE: WHAT; REMEDY". Command-line tools print that line and exit with exit_code().
#pragma once

#include <stdexcept>
#include <string>

namespace kvreplay {

class Error : public std::runtime_error {
 public:
  // where: "trace.h5", "trace.h5:/layers/000/key", "--budget". remedy may be empty.
  Error(const std::string& where, const std::string& what, const std::string& remedy = {});

  // 1: bad content, path, policy or budget. 2: bad usage. 130: the user cancelled.
  virtual int exit_code() const { return 1; }
};

// An unknown option or subcommand, or a missing argument.
class UsageError : public Error {
 public:
  using Error::Error;
  int exit_code() const override { return 2; }
};

// Ctrl-C, or a newer request in the desktop program. Carries no message of its own.
class Cancelled : public Error {
 public:
  Cancelled() : Error("", "cancelled") {}
  int exit_code() const override { return 130; }
};

}  // namespace kvreplay
