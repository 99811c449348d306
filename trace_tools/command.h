// A subcommand of `kvreplay`: a name, one line of help, a longer text, options as data, and what it does.
//
// A new one is a file in trace_tools/commands/ that defines `const Command& NAME_command()` and one line in
// commands.def. Options are declared with Boost.Program_options; the shared ones (--json, --threads, --help) are added by
// main. Errors are thrown (core/base/error.h); main prints them and sets the exit code.
#pragma once

#include <boost/program_options.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/job.h"

namespace kvreplay::cli {

namespace options = boost::program_options;

struct Invocation {
  const options::variables_map& values;
  std::string command_line;  // as typed, for provenance
  bool json = false;
  Job& job;  // progress on a terminal, Ctrl-C
};

class Command {
 public:
  virtual ~Command() = default;
  virtual std::string_view name() const = 0;
  virtual std::string_view summary() const = 0;      // one line, for `kvreplay --help`
  virtual std::string_view usage() const = 0;        // "TRACE... --policy P --budget N --out R.h5"
  virtual std::string_view description() const = 0;  // what it does, with examples; shown above the options
  // `visible` options are listed in --help; `hidden` is for the names of positional arguments.
  virtual void declare(options::options_description& visible, options::options_description& hidden,
                       options::positional_options_description& positional) const = 0;
  virtual int run(const Invocation& call) const = 0;  // the exit code
};

const std::vector<const Command*>& commands();

// Throws UsageError when the option was not given; `what` is what the user should write: "a trace file", "--out R.h5".
void require(const Invocation& call, const Command& command, const char* option, const char* what);
// Throws Error when the file to be written is one of those that are read.
void refuse_overwriting(const std::string& out, const std::vector<std::string>& inputs);

}  // namespace kvreplay::cli
