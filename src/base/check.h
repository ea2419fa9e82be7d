// PKV_ASSERT: programmer errors only; user data is validated at the boundary and answered by Result.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace pkv {
[[noreturn]] inline void assert_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: internal error: %s\n", file, line, condition);
  std::abort();
}
}  // namespace pkv

#ifdef NDEBUG
#define PKV_ASSERT(condition) static_cast<void>(0)
#else
#define PKV_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::pkv::assert_failed(#condition, __FILE__, __LINE__))
#endif
