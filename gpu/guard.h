// A debugging aid for kernels: with KVREPLAY_CUDA_GUARD=1 in the environment, every piece of device memory lies between two
// pads with a pattern that is checked when it is released, and starts filled with bytes of 255, which are NaN in every
// element type. A kernel that writes beside its output or reads what nothing wrote shows. Releasing then waits for the
// stream, so it is slow. Internal to gpu.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

namespace kvreplay::cuda {

bool guards_memory();
// Bytes on either side of a piece of memory; 0 without the guard. A multiple of the alignment of cudaMalloc.
std::size_t guard_padding();

// Of `raw`, guard_padding() + bytes + guard_padding() bytes: pads and fills it, returns where the `bytes` begin.
void* with_guards(void* raw, std::size_t bytes, cudaStream_t stream);
// Checks the pads of memory that with_guards() returned, and returns `raw`.
void* without_guards(void* memory, std::size_t bytes, cudaStream_t stream) noexcept;

// What was found since the last call, a line for each damaged piece; empty when nothing was.
std::string take_guard_complaints();

}  // namespace kvreplay::cuda
