#include "gpu/kernels/hopper.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include "core/base/error.h"
#include "gpu/device.h"
#include "gpu/kernels/hopper.cuh"

namespace kvreplay::cuda::hopper {
namespace {

// 1 in the code that was made for sm_90a, so that the host learns which code the driver has chosen.
__global__ void report_code(int* answer) { *answer = KVREPLAY_HOPPER_CODE; }

bool code_is_there(int device) {
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking for the compute capability");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "asking for the compute capability");
  if (major != 9 || minor != 0) return false;
  int* answer = nullptr;
  int host = 0;
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  check(cudaMallocAsync(reinterpret_cast<void**>(&answer), sizeof(int), stream), "4 bytes of device memory");
  report_code<<<1, 1, 0, stream>>>(answer);
  check_launch("report_code");
  check(cudaMemcpyAsync(&host, answer, sizeof(int), cudaMemcpyDeviceToHost, stream), "copying from the device");
  check(cudaFreeAsync(answer, stream), "freeing device memory");
  check(cudaStreamSynchronize(stream), "waiting for the device");
  check(cudaStreamDestroy(stream), "ending a stream");
  return host == 1;
}

PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  // Through the runtime, so that no program needs the driver's library to start.
  static const auto function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result),
          "finding cuTensorMapEncodeTiled");
    if (found == nullptr || result != cudaDriverEntryPointSuccess)
      throw Error("cuda", "the driver has no cuTensorMapEncodeTiled", "install a driver for CUDA 12 or later");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
  }();
  return function;
}

}  // namespace

bool available() {
  int device = 0, major = 0;
  check(cudaGetDevice(&device), "asking for the current device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking for the compute capability");
  if (major != 9) return false;
  // One answer for all devices of capability 9.0: they load the same code.
  static const bool code = code_is_there(device);
  return code;
}

bool supports(const AttentionShape& shape, const void* query, const void* key) {
  const auto aligned = [](const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; };
  return (shape.head_dim == 64 || shape.head_dim == 128) && shape.softcap == 0 && shape.scale > 0 && shape.queries > 0 &&
         shape.keys > 0 && aligned(query) && aligned(key) && available();
}

CUtensorMap map_rows(const void* base, bool bfloat16, int head_dim, std::int64_t rows, int heads, std::int64_t stride,
                     int box_rows) {
  CUtensorMap map{};
  const cuuint64_t row_bytes = static_cast<cuuint64_t>(head_dim) * 2;
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(head_dim), static_cast<cuuint64_t>(rows),
                               static_cast<cuuint64_t>(heads)};
  const cuuint64_t strides[2] = {row_bytes, static_cast<cuuint64_t>(stride) * row_bytes};
  const cuuint32_t box[3] = {piece_columns, static_cast<cuuint32_t>(box_rows), 1};
  const cuuint32_t steps[3] = {1, 1, 1};
  const CUresult result =
      encoder()(&map, bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3,
                const_cast<void*>(base), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw Error("cuda", "cuTensorMapEncodeTiled refused rows of " + std::to_string(head_dim) + " elements (error " +
                            std::to_string(static_cast<int>(result)) + ")");
  return map;
}

}  // namespace kvreplay::cuda::hopper
