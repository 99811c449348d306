#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/backend/registry.h"
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
    return "Lists the version, the vector instructions in use, the number of threads, what --backend can name (the CPU, "
           "and\n"
           "each GPU with its memory, or why there is none), and which optional parts (CUDA, figures) this build has. What\n"
           "is missing is named here and nowhere else changes anything.";
  }
  void declare(options::options_description&, options::options_description&,
               options::positional_options_description&) const override {}

  int run(const Invocation& call) const override {
    const bool cuda = KVREPLAY_WITH_CUDA != 0, figures = KVREPLAY_WITH_FIGURES != 0;
    const std::vector<Found> kinds = found();
    if (call.json) {
      const nlohmann::json out = {{"version", program_version()},
                                  {"instruction_set", kernels::instruction_set()},
                                  {"threads", thread_count()},
                                  {"backends", backends_json(kinds)},
                                  {"built_with", {{"cuda", cuda}, {"figures", figures}}}};
      std::printf("%s\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
      return 0;
    }
    std::printf("%s\n", program_version());
    std::printf("  vector instructions  %s (KVREPLAY_ISA=baseline|avx2|avx512 forces a lower one)\n",
                kernels::instruction_set());
    std::printf("  threads              %d (--threads N)\n", thread_count());
    std::printf("  backends             cpu%s\n", by_default(kinds) == "cpu" ? " (used by --backend auto)" : "");
    for (const Found& kind : kinds) print(kind, by_default(kinds));
    if (!cuda) std::printf("  CUDA                 not in this build\n");
    std::printf("  figures              %s\n",
                figures ? "built in (Qt Gui)" : "not in this build: reports have tables only");
    return 0;
  }

 private:
  // A kind of backend of this build, with its devices, or why there is none.
  struct Found {
    std::string name, why;
    std::vector<BackendDevice> devices;
  };

  static std::vector<Found> found() {
    std::vector<Found> out;
    for (const BackendKind& kind : backend_kinds()) {
      Found one;
      one.name = kind.name;
      one.devices = kind.devices(one.why);
      out.push_back(std::move(one));
    }
    return out;
  }

  // What --backend auto takes.
  static std::string by_default(const std::vector<Found>& kinds) {
    for (const Found& kind : kinds)
      for (const BackendDevice& device : kind.devices)
        if (device.unusable.empty()) return kind.name;
    return "cpu";
  }

  static nlohmann::json backends_json(const std::vector<Found>& kinds) {
    nlohmann::json out = {{{"name", "cpu"}, {"available", true}, {"default", by_default(kinds) == "cpu"}}};
    for (const Found& kind : kinds) {
      nlohmann::json devices = nlohmann::json::array();
      bool usable = false;
      for (std::size_t i = 0; i < kind.devices.size(); ++i) {
        const BackendDevice& device = kind.devices[i];
        devices.push_back({{"backend", kind.name + ":" + std::to_string(i)},
                           {"name", device.name},
                           {"memory_bytes", device.memory_bytes},
                           {"detail", device.detail}});
        if (!device.unusable.empty()) devices.back()["why"] = device.unusable;
        usable |= device.unusable.empty();
      }
      nlohmann::json entry = {{"name", kind.name},
                              {"available", usable},
                              {"default", by_default(kinds) == kind.name},
                              {"devices", std::move(devices)}};
      if (kind.devices.empty()) entry["why"] = kind.why;
      out.push_back(std::move(entry));
    }
    return out;
  }

  static void print(const Found& kind, const std::string& by_default) {
    if (kind.devices.empty()) {
      std::printf("                       %s: built in, but %s\n", kind.name.c_str(), kind.why.c_str());
      return;
    }
    for (std::size_t i = 0; i < kind.devices.size(); ++i) {
      const BackendDevice& device = kind.devices[i];
      const std::string use = !device.unusable.empty()  ? " (not used: " + device.unusable + ")"
                              : by_default == kind.name ? " (used by --backend auto)"
                                                        : "";
      std::printf("                       %s:%zu  %s, %.1f GiB, %s%s\n", kind.name.c_str(), i, device.name.c_str(),
                  static_cast<double>(device.memory_bytes) / (1 << 30), device.detail.c_str(), use.c_str());
    }
  }
};

}  // namespace

const Command& info_command() {
  static const InfoCommand command;
  return command;
}

}  // namespace kvreplay::cli
