// Replaces operator new of a test program. A file of its own, so that compilers do not inline it
// next to allocations and take free() for a mismatch.
#include "support/count_allocations.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<std::int64_t> allocations{0};
}

void* operator new(std::size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace pkv::testing {
std::int64_t num_allocations() { return allocations.load(std::memory_order_relaxed); }
}  // namespace pkv::testing
