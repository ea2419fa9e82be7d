// How the tile kernels prefetch on this CPU.
// Not here: what they prefetch (tile_inl.h), which instruction sets it has (kernels.cc, tile_amx.cc).
#include "exec/cpu/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>

#include <cstring>
#endif

namespace pkv {

// Measured on Zen 5 (EPYC Turin) and on Emerald Rapids. Zen 4 was measured before there was a choice: prefetches in the
// order of memory, into the L2; two pieces are nearest to that, as a tile of two pages is read in them.
TilePrefetch tile_prefetch_of_cpu() {
#if defined(__x86_64__)
  unsigned eax = 0, vendor[3] = {}, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(0, &eax, &vendor[0], &vendor[2], &vendor[1]) == 0 ||
      std::memcmp(vendor, "AuthenticAMD", sizeof(vendor)) != 0 || __get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) {
    return {};
  }
  constexpr unsigned kZen5 = 0x1A;
  const unsigned base_family = eax >> 8 & 0xF;
  const unsigned family = base_family == 0xF ? base_family + (eax >> 20 & 0xFF) : base_family;
  return {.streams = 2, .into_l1 = family >= kZen5};
#else
  return {};
#endif
}

}  // namespace pkv
