// kvreplay: finds the subcommand, parses its options, runs it, and turns what it throws into one line and an exit code.
#include <cstdio>
#include <exception>
#include <iostream>
#include <new>
#include <sstream>

#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/base/text.h"
#include "core/base/version.h"
#include "trace_tools/command.h"
#include "trace_tools/terminal_job.h"
#if KVREPLAY_WITH_CUDA
#include "gpu/cuda.h"
#endif

namespace kvreplay::cli {
namespace {

constexpr const char* introduction =
    "kvreplay answers offline which tokens a KV-cache eviction policy throws away, and what that does to every layer's\n"
    "output. A trace is captured once from a model; any policy at any budget is then replayed on it.\n"
    "\n"
    "  kvreplay capture --model DIR --prompt FILE --generate 64 --out trace.h5\n"
    "  kvreplay replay trace.h5 --policy restkv --policy snapkv --budget 10%,256 --out results.h5\n"
    "  kvreplay report results.h5 --html report.html\n";

void print_help() {
  std::printf("usage: kvreplay COMMAND [options]\n\n%s\ncommands:\n", introduction);
  for (const Command* command : commands())
    std::printf("  %-10s %s\n", std::string(command->name()).c_str(), std::string(command->summary()).c_str());
  std::printf("\n  kvreplay COMMAND --help    the options of one command\n  kvreplay --version\n");
}

const Command& find_command(const std::string& name) {
  std::vector<std::string> names;
  for (const Command* command : commands()) {
    if (command->name() == name) return *command;
    names.emplace_back(command->name());
  }
  const std::string guess = closest(name, names);
  throw UsageError("", "unknown command \"" + name + "\"",
                   guess.empty() ? "`kvreplay --help` lists the commands" : "did you mean \"" + guess + "\"?");
}

std::string quoted_command_line(int count, char** arguments) {
  std::string line = "kvreplay";
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    const bool plain = !argument.empty() && argument.find_first_of(" \t\n'\"\\$`*?;&|<>()") == std::string::npos;
    line += plain ? " " + argument : " '" + argument + "'";
  }
  return line;
}

int run_command(const Command& command, const std::vector<std::string>& arguments, const std::string& command_line) {
  options::options_description visible("options", 110, 70), hidden, all;
  options::positional_options_description positional;
  command.declare(visible, hidden, positional);
  visible.add_options()("json", "print machine-readable JSON on standard output")(
      "threads", options::value<int>()->value_name("N"), "worker threads (default: one per processor)")("help,h",
                                                                                                        "this text");
  all.add(visible).add(hidden);

  const std::string who = "kvreplay " + std::string(command.name());
  options::variables_map values;
  try {
    options::store(options::command_line_parser(arguments)
                       .options(all)
                       .positional(positional)
                       .style(options::command_line_style::unix_style & ~options::command_line_style::allow_guessing)
                       .run(),
                   values);
    if (values.count("help") != 0) {
      std::ostringstream text;
      text << visible;
      std::printf("usage: %s %s\n\n%s\n\n%s", who.c_str(), std::string(command.usage()).c_str(),
                  std::string(command.description()).c_str(), text.str().c_str());
      return 0;
    }
    if (values.count("threads") != 0) {
      const int threads = values["threads"].as<int>();
      if (threads < 1) throw UsageError("--threads", "must be at least 1");
      set_thread_count(threads);
    }
    options::notify(values);  // after what is wrong with values, what is missing
  } catch (const options::error& error) {
    throw UsageError(who, error.what(), "`" + who + " --help` lists the options");
  }
  TerminalJob job;
  return command.run({values, command_line, values.count("json") != 0, job});
}

int dispatch(int count, char** arguments) {
  const std::string first = count > 1 ? arguments[1] : "";
  if (first.empty()) {
    print_help();
    return 2;
  }
  if (first == "--help" || first == "-h" || first == "help") {
    print_help();
    return 0;
  }
  if (first == "--version") {
    std::printf("%s\n", program_version());
    return 0;
  }
  return run_command(find_command(first), {arguments + 2, arguments + count}, quoted_command_line(count, arguments));
}

}  // namespace
}  // namespace kvreplay::cli

int main(int count, char** arguments) {
  using namespace kvreplay;
  try {
#if KVREPLAY_WITH_CUDA
    register_cuda_backend();
#endif
    const int code = cli::dispatch(count, arguments);
    if (std::fflush(stdout) != 0) throw Error("standard output", "cannot be written");
    return code;
  } catch (const Cancelled& cancelled) {
    std::fputs("kvreplay: cancelled\n", stderr);
    return cancelled.exit_code();
  } catch (const Error& error) {
    std::fprintf(stderr, "kvreplay: %s\n", error.what());
    return error.exit_code();
  } catch (const std::bad_alloc&) {
    std::fputs("kvreplay: not enough memory; fewer layers, policies or budgets at a time need less\n", stderr);
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kvreplay: internal error: %s\n", error.what());
    return 1;
  }
}
