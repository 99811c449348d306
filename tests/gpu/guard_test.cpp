// Does the guard around device memory see what it is there for?
#include "gpu/guard.h"

#include "gpu/device.h"
#include "tests/gpu/comparison.h"

namespace kvreplay::gpu_test {
namespace {

class Guard : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    if (!tested_name().starts_with("cuda")) GTEST_SKIP() << "the tested backend is not CUDA's";
    if (!cuda::guards_memory()) GTEST_SKIP() << "KVREPLAY_CUDA_GUARD is off";
  }
  void TearDown() override { cuda::take_guard_complaints(); }
};

// Writes one byte at `offset` of 100 bytes and gives the memory back.
std::string complaint_about(cuda::Device& device, std::ptrdiff_t offset) {
  {
    const cuda::Buffer<char> buffer(device, 100);
    cuda::check(cudaMemsetAsync(buffer.data() + offset, 7, 1, device.stream()), "writing");
  }
  return cuda::take_guard_complaints();
}

TEST_F(Guard, SeesBytesThatAreWrittenOutside) {
  cuda::Device device(0);
  EXPECT_EQ(complaint_about(device, 0), "");
  EXPECT_EQ(complaint_about(device, 99), "");
  EXPECT_EQ(complaint_about(device, 100), "device memory of 100 bytes was written behind its end, byte 100 + 0\n");
  EXPECT_EQ(complaint_about(device, 355), "device memory of 100 bytes was written behind its end, byte 100 + 255\n");
  EXPECT_EQ(complaint_about(device, -1), "device memory of 100 bytes was written before its beginning, byte -1\n");
}

TEST_F(Guard, FreshMemoryIsNan) {
  cuda::Device device(0);
  const cuda::Buffer<float> buffer(device, 33);
  for (const float x : buffer.download()) EXPECT_TRUE(std::isnan(x));
}

}  // namespace
}  // namespace kvreplay::gpu_test
