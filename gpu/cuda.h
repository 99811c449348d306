// The CUDA backend's door: what programs call. No CUDA type appears here.
#pragma once

#include <cstdint>
#include <memory>

#include "core/backend/backend.h"

namespace kvreplay {

// Adds "cuda" to the backends of core/backend/registry.h. Touches no driver: a program starts the same on a machine without
// one.
void register_cuda_backend();

// Throws Error when there is no such device.
std::unique_ptr<Backend> make_cuda_backend(int device);

// Device memory of a backend that make_cuda_backend() made, bytes: what its buffers hold now, and the most that they have
// held since this was last asked.
struct DeviceMemory {
  std::int64_t now = 0, peak = 0;
  int device = 0;
};
DeviceMemory device_memory_of(Backend& backend);

}  // namespace kvreplay
