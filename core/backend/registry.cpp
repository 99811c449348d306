#include "core/backend/registry.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/text.h"

namespace kvreplay {
namespace {

std::vector<BackendKind>& kinds() {
  static std::vector<BackendKind> registered;
  return registered;
}

std::string choices() {
  std::string text = "auto, cpu";
  for (const BackendKind& kind : kinds()) text += ", " + kind.name + ", " + kind.name + ":N";
  return text;
}

using Backends = std::vector<std::unique_ptr<Backend>>;

void add_device(const BackendKind& kind, const std::vector<BackendDevice>& devices, std::size_t device, Backends& backends) {
  for (int i = 0; i < devices[device].backends; ++i) backends.push_back(kind.make(static_cast<int>(device)));
}

// Devices take turns, so that the first layers go to all of them.
Backends all_devices(const BackendKind& kind, const std::vector<BackendDevice>& devices) {
  Backends backends;
  for (int turn = 0;; ++turn) {
    const std::size_t before = backends.size();
    for (std::size_t device = 0; device < devices.size(); ++device)
      if (turn < devices[device].backends) backends.push_back(kind.make(static_cast<int>(device)));
    if (backends.size() == before) return backends;
  }
}

std::vector<std::unique_ptr<Backend>> cpu_alone() {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(make_cpu_backend());
  return backends;
}

std::vector<std::unique_ptr<Backend>> best_there_is() {
  for (const BackendKind& kind : kinds()) {
    std::string why;
    if (const auto devices = kind.devices(why); !devices.empty()) return all_devices(kind, devices);
  }
  return cpu_alone();
}

}  // namespace

void register_backend(BackendKind kind) {
  const auto same = std::find_if(kinds().begin(), kinds().end(), [&](const auto& other) { return other.name == kind.name; });
  if (same != kinds().end())
    *same = std::move(kind);
  else
    kinds().push_back(std::move(kind));
}

const std::vector<BackendKind>& backend_kinds() { return kinds(); }

std::vector<std::unique_ptr<Backend>> make_backends(const std::string& choice) {
  if (choice == "auto") return best_there_is();
  if (choice == "cpu") return cpu_alone();
  const std::size_t colon = choice.find(':');
  const std::string name = choice.substr(0, colon);
  const auto kind = std::find_if(kinds().begin(), kinds().end(), [&](const auto& other) { return other.name == name; });
  if (kind == kinds().end())
    throw Error("--backend", "\"" + choice + "\" is not in this build",
                "there is " + choices() + "; `kvreplay info` says more");
  std::string why;
  const auto devices = kind->devices(why);
  if (devices.empty()) throw Error("--backend", "\"" + choice + "\" cannot be used: " + why, "use cpu, or auto");
  if (colon == std::string::npos) return all_devices(*kind, devices);
  const std::string number = choice.substr(colon + 1);
  const bool digits = !number.empty() && number.size() < 5 && number.find_first_not_of("0123456789") == std::string::npos;
  const std::size_t device = digits ? static_cast<std::size_t>(std::stoul(number)) : devices.size();
  if (device >= devices.size())
    throw Error("--backend", "\"" + choice + "\" names no device",
                "there are " + name + ":0 to " + name + ":" + std::to_string(devices.size() - 1));
  Backends backends;
  add_device(*kind, devices, device, backends);
  return backends;
}

std::unique_ptr<Backend> make_backend(const std::string& choice) { return std::move(make_backends(choice).front()); }

}  // namespace kvreplay
