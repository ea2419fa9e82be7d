// The decode suite for every instruction set.
// Not here: its cases (support/decode_suite.cc), workers, workspace, errors (backend_test.cc).
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "support/cpu_backend.h"
#include "support/decode_suite.h"

namespace pkv::testing {
namespace {

BackendCase case_of(Isa isa, const Tolerance& tolerance = {}) {
  return {.name = std::string(isa_name(isa)),
          .make = [isa]() -> std::shared_ptr<Backend> {
            const std::vector<Isa> isas = supported_isas();
            if (std::find(isas.begin(), isas.end(), isa) == isas.end()) {
              return nullptr;
            }
            std::unique_ptr<CpuBackend> backend = make_backend(isa);
            EXPECT_EQ(backend->isa(), isa);
            return backend;
          },
          .tolerance = tolerance};
}

INSTANTIATE_TEST_SUITE_P(AllIsas, DecodeOnBackend,
                         ::testing::Values(case_of(Isa::kPortable), case_of(Isa::kAvx2), case_of(Isa::kAvx512),
                                           case_of(Isa::kAvx512Bf16), case_of(Isa::kAmx, {.weights = 0x1p-17})),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace pkv::testing
