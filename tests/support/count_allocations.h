// Counts calls of operator new in a test program that links count_allocations.cc.
#pragma once

#include <cstdint>

namespace pkv::testing {

/// Allocations of this process so far, by any thread.
std::int64_t num_allocations();

}  // namespace pkv::testing
