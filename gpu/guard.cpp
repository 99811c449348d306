#include "gpu/guard.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <mutex>

#include "gpu/device.h"

namespace kvreplay::cuda {
namespace {

constexpr std::size_t padding = 256;
constexpr int pattern = 0xa5;
constexpr std::size_t most_complaints = 2000;  // characters

std::mutex complaints_mutex;
std::string complaints;  // guarded by complaints_mutex

void complain(const std::string& text) {
  const std::lock_guard lock(complaints_mutex);
  if (complaints.size() < most_complaints) complaints += text + "\n";
}

}  // namespace

bool guards_memory() {
  static const bool on = [] {
    const char* value = std::getenv("KVREPLAY_CUDA_GUARD");
    return value != nullptr && *value != '\0' && *value != '0';
  }();
  return on;
}

std::size_t guard_padding() { return guards_memory() ? padding : 0; }

void* with_guards(void* raw, std::size_t bytes, cudaStream_t stream) {
  if (!guards_memory()) return raw;
  auto* memory = static_cast<std::byte*>(raw) + padding;
  check(cudaMemsetAsync(raw, pattern, padding, stream), "padding device memory");
  check(cudaMemsetAsync(memory, 0xff, bytes, stream), "filling device memory");
  check(cudaMemsetAsync(memory + bytes, pattern, padding, stream), "padding device memory");
  return memory;
}

void* without_guards(void* memory, std::size_t bytes, cudaStream_t stream) noexcept {
  if (!guards_memory()) return memory;
  auto* raw = static_cast<std::byte*>(memory) - padding;
  std::array<std::byte, 2 * padding> pads;
  cudaError_t status = cudaMemcpyAsync(pads.data(), raw, padding, cudaMemcpyDeviceToHost, stream);
  if (status == cudaSuccess)
    status = cudaMemcpyAsync(pads.data() + padding, raw + padding + bytes, padding, cudaMemcpyDeviceToHost, stream);
  if (status == cudaSuccess) status = cudaStreamSynchronize(stream);
  try {
    const std::string piece = "device memory of " + std::to_string(bytes) + " bytes ";
    if (status != cudaSuccess) {
      complain(piece + "could not be checked: " + cudaGetErrorString(status));
      return raw;
    }
    const auto damaged = [](std::byte value) { return value != std::byte{pattern}; };
    const auto before = std::find_if(pads.begin(), pads.begin() + padding, damaged);
    const auto behind = std::find_if(pads.begin() + padding, pads.end(), damaged);
    if (before != pads.begin() + padding)
      complain(piece + "was written before its beginning, byte -" + std::to_string(pads.begin() + padding - before));
    if (behind != pads.end())
      complain(piece + "was written behind its end, byte " + std::to_string(bytes) + " + " +
               std::to_string(behind - pads.begin() - padding));
  } catch (...) {  // no memory for the complaint: nothing is left to do
  }
  return raw;
}

std::string take_guard_complaints() {
  const std::lock_guard lock(complaints_mutex);
  return std::exchange(complaints, {});
}

}  // namespace kvreplay::cuda
