#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/base/parallel.h"
#include "core/base/version.h"
#include "core/kernels/kernels.h"
#include "trace_tools/command.h"

namespace kvreplay::cli {
namespace {

class InfoCommand final : public Command {
 public:
  std::string_view name() const override { return "info"; }
  std::string_view summary() const override { return "what this build has and what it runs on"; }
  std::string_view usage() const override { return "[--json]"; }
  std::string_view description() const override {
    return "Lists the version, the vector instructions in use, the number of threads, and which optional parts (CUDA, "
           "figures)\n"
           "this build has. What is missing is named here and nowhere else changes anything.";
  }
  void declare(options::options_description&, options::options_description&,
               options::positional_options_description&) const override {}

  int run(const Invocation& call) const override {
    const bool cuda = KVREPLAY_WITH_CUDA != 0, figures = KVREPLAY_WITH_FIGURES != 0;
    if (call.json) {
      const nlohmann::json out = {{"version", program_version()},
                                  {"instruction_set", kernels::instruction_set()},
                                  {"threads", thread_count()},
                                  {"backends", {"cpu"}},
                                  {"built_with", {{"cuda", cuda}, {"figures", figures}}}};
      std::printf("%s\n", out.dump(2).c_str());
      return 0;
    }
    std::printf("%s\n", program_version());
    std::printf("  vector instructions  %s (KVREPLAY_ISA=baseline|avx2|avx512 forces a lower one)\n",
                kernels::instruction_set());
    std::printf("  threads              %d (--threads N)\n", thread_count());
    std::printf("  backends             cpu\n");
    std::printf("  CUDA                 %s\n", cuda ? "built in" : "not in this build");
    std::printf("  figures              %s\n",
                figures ? "built in (Qt Gui)" : "not in this build: reports have tables only");
    return 0;
  }
};

}  // namespace

const Command& info_command() {
  static const InfoCommand command;
  return command;
}

}  // namespace kvreplay::cli
