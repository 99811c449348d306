#include "gpu/device.h"
#include "gpu/kernels/hopper.cuh"
#include "gpu/kernels/launch.cuh"
#include "gpu/kernels/rates.h"
#include "gpu/kernels/tensor_core.cuh"

namespace kvreplay::cuda {
namespace {

constexpr int read_threads = 512, read_unroll = 8;

__global__ void __launch_bounds__(read_threads) read_kernel(const float4* values, std::int64_t count, float* sum) {
  float total = 0;
  const std::int64_t step = std::int64_t{gridDim.x} * read_threads;
  std::int64_t i = std::int64_t{blockIdx.x} * read_threads + threadIdx.x;
  for (; i + (read_unroll - 1) * step < count; i += read_unroll * step) {
    float4 part[read_unroll];
#pragma unroll
    for (int u = 0; u < read_unroll; ++u) part[u] = __ldcs(values + i + u * step);
#pragma unroll
    for (int u = 0; u < read_unroll; ++u) total += part[u].x + part[u].y + part[u].z + part[u].w;
  }
  for (; i < count; i += step) total += values[i].x;
  if (total == 0.1234F) *sum = total;
}

constexpr int product_rounds = 2000;
constexpr double operations_of_mma = 2.0 * 16 * 8 * 16;

// Eight independent sums a warp hide the latency of one.
__global__ void __launch_bounds__(256) mma_kernel(float* sum) {
  float sums[8][4] = {};
  const unsigned seed = 0x2c003a00U + threadIdx.x % 32 * 0x00110013U;  // ordinary numbers: zeros would clock higher
  const unsigned a[4] = {seed, seed ^ 0x80000000U, seed + 0x00050003U, seed ^ 0x00008000U};
  for (int round = 0; round < product_rounds; ++round)
#pragma unroll
    for (int i = 0; i < 8; ++i) multiply_add<__half>(sums[i], a, seed + i, seed ^ 0x80008000U);
  float total = 0;
  for (int i = 0; i < 8; ++i) total += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
  if (total == 0.1234F) sum[blockIdx.x] = total;
}

constexpr int wgmma_groups = 2, wgmma_rounds = 1000, wgmma_tile = 128 * 128;  // warpgroups, elements of B (two pieces)
constexpr double operations_of_wgmma = 2.0 * 64 * 128 * 16;

__global__ void __launch_bounds__(wgmma_groups* hopper::warpgroup_threads) wgmma_kernel(float* sum) {
#if KVREPLAY_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char shared[];
  auto* tile = reinterpret_cast<unsigned*>((reinterpret_cast<std::uintptr_t>(shared) + 1023) & ~std::uintptr_t{1023});
  for (int i = threadIdx.x; i < wgmma_tile / 2; i += blockDim.x)
    tile[i] = 0x2c003a00U + (i * 2654435761U >> 12 & 0x03ff03ffU);
  __syncthreads();
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  const unsigned seed = 0x2c003a00U + threadIdx.x % 32 * 0x00110013U;
  const std::uint32_t a[4] = {seed, seed ^ 0x80000000U, seed + 0x00050003U, seed ^ 0x00008000U};
  float d[64] = {};
  const std::uint32_t address = hopper::shared_address(tile);
  for (int round = 0; round < wgmma_rounds; ++round) {
    hopper::products_begin();
#pragma unroll
    for (int k = 0; k < 4; ++k) hopper::multiply<__half, 0>(d, a, hopper::rows_transposed(address + 32 * k), 1);
    hopper::products_commit();
    hopper::products_wait<0>();
    hopper::settle(d);
  }
  float total = 0;
  for (int i = 0; i < 64; ++i) total += d[i];
  if (total == 0.1234F) sum[blockIdx.x] = total;
#else
  if (sum != nullptr) __trap();
#endif
}

}  // namespace

void launch_read(const float* values, std::int64_t count, int multiprocessors, float* sum, cudaStream_t stream) {
  read_kernel<<<4 * multiprocessors, read_threads, 0, stream>>>(reinterpret_cast<const float4*>(values), count / 4, sum);
  check_launch("reading");
}

double launch_products(int multiprocessors, int capability, float* sum, cudaStream_t stream) {
  if (capability == 90) {
    constexpr int bytes = wgmma_tile * 2 + 1024;
    allow_shared_memory(wgmma_kernel, bytes);
    const int blocks = 2 * multiprocessors;
    wgmma_kernel<<<blocks, wgmma_groups * hopper::warpgroup_threads, bytes, stream>>>(sum);
    check_launch("warpgroup products");
    return operations_of_wgmma * 4 * wgmma_rounds * wgmma_groups * blocks;
  }
  const int blocks = 4 * multiprocessors;
  mma_kernel<<<blocks, 256, 0, stream>>>(sum);
  check_launch("matrix products");
  return operations_of_mma * 8 * product_rounds * 8 * blocks;
}

}  // namespace kvreplay::cuda
