// Replaces operator new of a test program. A file of its own, so that compilers do not inline it
// next to allocations and take free() for a mismatch.
#include "unit/trace/limit_allocations.h"

#include <atomic>
#include <cstdlib>
#include <limits>
#include <new>

namespace {

constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();
std::atomic<std::size_t> limit{kNoLimit};

void* allocate(std::size_t bytes) noexcept {
  return bytes > limit.load(std::memory_order_relaxed) ? nullptr : std::malloc(bytes == 0 ? 1 : bytes);
}

}  // namespace

void* operator new(std::size_t bytes) {
  void* memory = allocate(bytes);
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  return memory;
}
// std::stable_sort asks this one, and gives its memory to the ordinary delete.
void* operator new(std::size_t bytes, const std::nothrow_t& /*tag*/) noexcept { return allocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t& /*tag*/) noexcept { std::free(memory); }

namespace pkv::test {

AllocationLimit::AllocationLimit(std::size_t max_bytes) { limit.store(max_bytes); }
AllocationLimit::~AllocationLimit() { limit.store(kNoLimit); }

}  // namespace pkv::test
