// What a program hears where no GPU can be used: an error that says why, never a crash.
// Not here: machines with a GPU (tests/gpu).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "persistentkv/cuda.h"

namespace pkv {
namespace {

using ::testing::HasSubstr;

TEST(CudaWithoutGpu, BuildWithoutCuda_SaysHowToGetIt) {
  if (cuda_built()) {
    GTEST_SKIP() << "this build has CUDA";
  }
  for (const Error& error : {CudaBackend::create().error(), cuda_devices().error()}) {
    EXPECT_EQ(error.code, ErrorCode::kUnsupported);
    EXPECT_THAT(error.message, HasSubstr("-DPKV_CUDA=ON"));
    EXPECT_THAT(error.message, HasSubstr("PKV_CUDA=on ./scripts/run"));
  }
}

TEST(CudaWithoutGpu, BuildWithCuda_GivesTheDriversReason) {
  if (!cuda_built()) {
    GTEST_SKIP() << "this build has no CUDA";
  }
  const auto devices = cuda_devices();
  if (devices.ok()) {
    GTEST_SKIP() << "this machine has a GPU: " << devices->front().name;
  }
  EXPECT_EQ(devices.error().code, ErrorCode::kUnsupported);
  EXPECT_FALSE(devices.error().message.empty());
  const auto backend = CudaBackend::create();
  ASSERT_FALSE(backend.ok());
  EXPECT_EQ(backend.error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(backend.error().message, devices.error().message);
}

}  // namespace
}  // namespace pkv
