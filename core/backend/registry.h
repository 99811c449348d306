// The backends of this process by name, for `--backend auto|cpu|cuda[:n]` and `kvreplay info`.
//
// The CPU's is always there. Others live outside core and add themselves when the program starts; one whose device or
// driver is absent stays in the list and says why it cannot be had.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/backend/backend.h"

namespace kvreplay {

struct BackendDevice {
  std::string name;               // "NVIDIA H200"
  std::int64_t memory_bytes = 0;  // of the device
  std::string detail;             // "compute capability 9.0, driver for CUDA 13.0"
  // Backends that share the device's layers between them: while one waits for the device, another does its host's work.
  int backends = 1;
  std::string unusable = {};  // why this build cannot compute on it ("this build has no code for ..."); empty: it can
};

struct BackendKind {
  std::string name;  // "cuda"
  // The devices that are there, by their number; empty with `why` saying what is missing.
  std::function<std::vector<BackendDevice>(std::string& why)> devices;
  std::function<std::unique_ptr<Backend>(int device)> make;
};

// Registering a name again replaces it.
void register_backend(BackendKind kind);
const std::vector<BackendKind>& backend_kinds();  // without "cpu"

// auto: every device of the first registered kind that has a usable one, else the CPU; cpu; NAME: all usable devices of a
// kind; NAME:n: one of them. At least one backend; several when layers can be spread over devices, or over several backends
// of one device. Throws Error naming `--backend` and what there is.
std::vector<std::unique_ptr<Backend>> make_backends(const std::string& choice);
// The first of them; the others are not made.
std::unique_ptr<Backend> make_backend(const std::string& choice);

}  // namespace kvreplay
