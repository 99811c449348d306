// Choosing backends by name, over kinds of devices that are made up.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/backend/half_precision.h"
#include "core/backend/registry.h"
#include "core/base/error.h"

namespace kvreplay {
namespace {

std::vector<int>& made() {
  static std::vector<int> devices;
  return devices;
}

// A kind "toy" with two backends on its first device, and a second device that this build cannot use.
void register_toys(const std::string& first_unusable = "") {
  made().clear();
  BackendKind toys;
  toys.name = "toy";
  toys.devices = [first_unusable](std::string&) {
    return std::vector<BackendDevice>{{"new", 1, "", 2, first_unusable}, {"old", 1, "", 1, "this build has no code for it"}};
  };
  toys.make = [](int device) {
    made().push_back(device);
    static const auto exact = make_cpu_backend();
    return make_half_precision_backend(*exact);
  };
  register_backend(std::move(toys));
}

// The kind stays registered in this process, so it has to leave no device behind.
class BackendRegistry : public testing::Test {
 protected:
  void TearDown() override {
    register_backend({"toy", [](std::string&) { return std::vector<BackendDevice>{}; }, nullptr});
  }
};

std::string refusal(const std::string& choice) {
  try {
    make_backends(choice);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST_F(BackendRegistry, LeavesOutDevicesThatTheBuildHasNoCodeFor) {
  register_toys();
  EXPECT_EQ(make_backends("toy").size(), 2u);
  EXPECT_THAT(made(), testing::ElementsAre(0, 0));
  EXPECT_THAT(refusal("toy:1"), testing::HasSubstr("this build has no code for it"));
  EXPECT_THAT(refusal("toy:2"), testing::HasSubstr("toy:0 to toy:1"));
}

TEST_F(BackendRegistry, AutoIsTheCpuWhereNoDeviceIsUsable) {
  register_toys("too old");
  EXPECT_EQ(make_backends("auto").front()->name(), "cpu");
  EXPECT_THAT(refusal("toy"), testing::HasSubstr("too old"));
  EXPECT_TRUE(made().empty());
}

TEST_F(BackendRegistry, OneBackendIsMadeWhereOneIsAskedFor) {
  register_toys();
  make_backend("toy");
  EXPECT_THAT(made(), testing::ElementsAre(0));
}

}  // namespace
}  // namespace kvreplay
