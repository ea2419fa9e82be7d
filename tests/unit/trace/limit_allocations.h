// Makes large allocations of a test program fail, so that the end of memory can be tested.
#pragma once

#include <cstddef>

namespace pkv::test {

/// While it lives, operator new of more than max_bytes at once throws std::bad_alloc, in every thread.
class AllocationLimit {
 public:
  explicit AllocationLimit(std::size_t max_bytes);
  AllocationLimit(const AllocationLimit&) = delete;
  AllocationLimit& operator=(const AllocationLimit&) = delete;
  ~AllocationLimit();
};

}  // namespace pkv::test
