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

}  // namespace kvreplay
