// Which devices a build has code for. Needs none.
#include "gpu/architectures.h"

#include <gtest/gtest.h>

namespace kvreplay::cuda {
namespace {

TEST(Architectures, OfTheUsualBuild) {
  const char* usual = "80-real;90a-real;90-virtual";
  EXPECT_FALSE(has_code_for(usual, 7, 5));
  EXPECT_TRUE(has_code_for("90a-real,80-real,90-virtual", 8, 0));
  EXPECT_TRUE(has_code_for(usual, 8, 0));
  EXPECT_TRUE(has_code_for(usual, 8, 9));  // code of 8.0 runs on later minors
  EXPECT_TRUE(has_code_for(usual, 9, 0));
  EXPECT_TRUE(has_code_for(usual, 12, 0));  // PTX
}

TEST(Architectures, OfOneDeviceAlone) {
  EXPECT_TRUE(has_code_for("90a-real", 9, 0));
  EXPECT_FALSE(has_code_for("90a-real", 9, 1));
  EXPECT_FALSE(has_code_for("90a-real", 10, 0));
  EXPECT_FALSE(has_code_for("90a-real", 8, 0));
  EXPECT_FALSE(has_code_for("86-real", 8, 0));
  EXPECT_FALSE(has_code_for("80-real", 9, 0));
  EXPECT_TRUE(has_code_for("80", 9, 0));  // code and PTX
  EXPECT_FALSE(has_code_for("", 9, 0));
}

}  // namespace
}  // namespace kvreplay::cuda
