// A CpuBackend for tests.
// Not here: cases (paged_case.h).
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "exec/cpu/cpu_backend.h"

namespace pkv::testing {

/// Runs the kernels of `isa`; two workers unless asked otherwise.
inline std::unique_ptr<CpuBackend> make_backend(Isa isa, std::int32_t threads = 2) {
  Result<std::unique_ptr<CpuBackend>> backend = CpuBackend::create({.threads = threads, .isa = isa});
  EXPECT_TRUE(backend.ok()) << (backend.ok() ? "" : backend.error().to_string());
  return backend.ok() ? *std::move(backend) : nullptr;
}

}  // namespace pkv::testing
