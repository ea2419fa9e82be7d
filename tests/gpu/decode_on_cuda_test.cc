// The decode suite on a GPU: with the queries' types as they come (mostly the simple kernel), and with queries of the
// cache's type (tensor cores). Not here: its cases (support/decode_suite.cc), which kernel runs (cuda_kernel_test.cc).
#include <gtest/gtest.h>

#include "gpu/device_rig.h"
#include "support/decode_suite.h"

namespace pkv::testing {
namespace {

/// A backend on tensors in host memory.
struct StagedCuda {
  std::unique_ptr<CudaBackend> cuda = make_cuda();
  std::unique_ptr<StagedBackend> staged = StagedBackend::make(*cuda).value();
};

std::shared_ptr<Backend> make_staged() {
  const auto both = std::make_shared<StagedCuda>();
  return {both, both->staged.get()};
}

INSTANTIATE_TEST_SUITE_P(Cuda, DecodeOnBackend,
                         ::testing::Values(BackendCase{.name = "types_as_they_come", .make = make_staged},
                                           BackendCase{.name = "tensor_cores",
                                                       .make = make_staged,
                                                       .queries = QueryTypes::kOfCache,
                                                       .tolerance = kTensorCores}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace pkv::testing
