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

// What makes each backend of a choice, in order.
using Makers = std::vector<std::function<std::unique_ptr<Backend>()>>;

void add_backend(const BackendKind& kind, std::size_t device, Makers& makers) {
  makers.push_back([make = kind.make, device] { return make(static_cast<int>(device)); });
}

// Devices take turns, so that the first layers go to all of them. Empty where none is usable.
Makers all_devices(const BackendKind& kind, const std::vector<BackendDevice>& devices) {
  Makers makers;
  for (int turn = 0;; ++turn) {
    const std::size_t before = makers.size();
    for (std::size_t device = 0; device < devices.size(); ++device)
      if (devices[device].unusable.empty() && turn < devices[device].backends) add_backend(kind, device, makers);
    if (makers.size() == before) return makers;
  }
}

Makers cpu_alone() { return {make_cpu_backend}; }

Makers best_there_is() {
  for (const BackendKind& kind : kinds()) {
    std::string why;
    if (auto makers = all_devices(kind, kind.devices(why)); !makers.empty()) return makers;
  }
  return cpu_alone();
}

Error cannot_be_used(const std::string& choice, const std::string& why) {
  return Error("--backend", "\"" + choice + "\" cannot be used: " + why, "use cpu, or auto");
}

Makers makers_of(const std::string& choice) {
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
  if (devices.empty()) throw cannot_be_used(choice, why);
  if (colon == std::string::npos) {
    Makers makers = all_devices(*kind, devices);
    if (makers.empty()) throw cannot_be_used(choice, devices.front().unusable);
    return makers;
  }
  const std::string number = choice.substr(colon + 1);
  const bool digits = !number.empty() && number.size() < 5 && number.find_first_not_of("0123456789") == std::string::npos;
  const std::size_t device = digits ? static_cast<std::size_t>(std::stoul(number)) : devices.size();
  if (device >= devices.size())
    throw Error("--backend", "\"" + choice + "\" names no device",
                "there are " + name + ":0 to " + name + ":" + std::to_string(devices.size() - 1));
  if (!devices[device].unusable.empty()) throw cannot_be_used(choice, devices[device].unusable);
  Makers makers;
  for (int i = 0; i < devices[device].backends; ++i) add_backend(*kind, device, makers);
  return makers;
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
  std::vector<std::unique_ptr<Backend>> backends;
  for (const auto& make : makers_of(choice)) backends.push_back(make());
  return backends;
}

std::unique_ptr<Backend> make_backend(const std::string& choice) { return makers_of(choice).front()(); }

}  // namespace kvreplay
