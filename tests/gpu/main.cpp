// kvreplay_gpu_tests: every operation of the CUDA backend against the CPU's. Device memory is padded with a pattern and
// filled with NaN bytes (KVREPLAY_CUDA_GUARD), so that a kernel that writes outside its outputs, or reads what nothing
// wrote, fails the test in which it does.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "core/backend/half_precision.h"
#include "core/backend/registry.h"
#include "gpu/cuda.h"
#include "gpu/guard.h"
#include "tests/gpu/comparison.h"

namespace {

class GuardListener final : public testing::EmptyTestEventListener {
  void OnTestEnd(const testing::TestInfo&) override {
    if (const std::string complaint = kvreplay::cuda::take_guard_complaints(); !complaint.empty())
      ADD_FAILURE() << complaint;
  }
};

// "half": the CPU's operations rounded to float16. Nearly right, so every tolerance has to notice it.
void register_half_precision_backend() {
  kvreplay::BackendKind half;
  half.name = "half";
  half.devices = [](std::string&) { return std::vector<kvreplay::BackendDevice>{{"rounding", 0, ""}}; };
  half.make = [](int) {
    static const auto exact = kvreplay::make_cpu_backend();
    return kvreplay::make_half_precision_backend(*exact);
  };
  kvreplay::register_backend(std::move(half));
}

}  // namespace

int main(int count, char** arguments) {
  setenv("KVREPLAY_CUDA_GUARD", "1", 0);
  kvreplay::register_cuda_backend();
  register_half_precision_backend();
  testing::InitGoogleTest(&count, arguments);
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  // Before the printer, which must see the failures that the guard adds.
  testing::TestEventListener* printer = listeners.Release(listeners.default_result_printer());
  listeners.Append(new GuardListener);
  listeners.Append(printer);
  const int result = RUN_ALL_TESTS();
  const auto& all = *testing::UnitTest::GetInstance();
  if (const std::string used = kvreplay::gpu_test::used_tolerances(); !used.empty())
    std::printf("\nlargest error / tolerance on %s:\n%s", kvreplay::gpu_test::tested_name().c_str(), used.c_str());
  if (all.skipped_test_count() > 0)
    std::printf("SKIPPED: %d of %d tests did not run: %s\n", all.skipped_test_count(), all.test_to_run_count(),
                kvreplay::gpu_test::why_not().empty() ? "each says why" : kvreplay::gpu_test::why_not().c_str());
  return result;
}
