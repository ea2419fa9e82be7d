// The test program's main: without a GPU it says so in one line and succeeds.
// Not here: tests.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "persistentkv/cuda.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const auto devices = pkv::cuda_devices();
  if (!devices.ok() && !GTEST_FLAG_GET(list_tests)) {
    fmt::print("gpu_test: no GPU to test on, nothing ran: {}\n", devices.error().to_string());
    return 0;
  }
  return RUN_ALL_TESTS();
}
