// Kernels that do one thing as fast as a device can, to measure how fast that is.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace kvreplay::cuda {

// Adds up `count` floats; *sum receives what nobody needs, so that the reading is not left out. Bound by memory.
void launch_read(const float* values, std::int64_t count, int multiprocessors, float* sum, cudaStream_t stream);

// Products of float16 matrices whose operands stay in registers and shared memory: warpgroup products on sm_90a, mma.sync
// on others. Bound by the tensor cores. Returns the operations that it starts; `sum` as above, one float a block.
double launch_products(int multiprocessors, int capability, float* sum, cudaStream_t stream);

}  // namespace kvreplay::cuda
