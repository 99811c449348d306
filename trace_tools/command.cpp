#include "trace_tools/command.h"

#include <filesystem>

#include "core/base/error.h"

namespace kvreplay::cli {

void require(const Invocation& call, const Command& command, const char* option, const char* what) {
  if (call.values.count(option) != 0) return;
  const std::string name = "kvreplay " + std::string(command.name());
  throw UsageError(name, std::string("needs ") + what, "`" + name + " --help` has examples");
}

void refuse_overwriting(const std::string& out, const std::vector<std::string>& inputs) {
  for (const auto& input : inputs) {
    std::error_code missing;
    if (std::filesystem::equivalent(out, input, missing) && !missing)
      throw Error("--out", out + " is the file that is read", "name another file");
  }
}

}  // namespace kvreplay::cli
