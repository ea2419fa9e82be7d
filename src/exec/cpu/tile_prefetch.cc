// How the tile kernels prefetch on this CPU.
// Not here: what they prefetch (tile_inl.h), which instruction sets it has (kernels.cc, tile_amx.cc).
#include "exec/cpu/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>

#include <cstring>
#endif

namespace pkv {

// Measured on Zen 5 (EPYC Turin) and on Emerald Rapids. Zen 4 was measured before there was a choice, with prefetches
// into the L2 in the order of memory, one page after the other; two pages side by side are the order in which heads
// use them, and were equal there. Older AMD CPUs are not measured.
TilePrefetch tile_prefetch_of(std::string_view vendor, std::uint32_t family) {
  constexpr std::uint32_t kZen5 = 0x1A;
  if (vendor != "AuthenticAMD") {
    return {};
  }
  return {.streams = 2, .into_l1 = family >= kZen5};
}

TilePrefetch tile_prefetch_of_cpu() {
#if defined(__x86_64__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  char vendor[12];
  if (__get_cpuid(0, &eax, &ebx, &ecx, &edx) != 0) {
    std::memcpy(vendor, &ebx, 4);
    std::memcpy(vendor + 4, &edx, 4);
    std::memcpy(vendor + 8, &ecx, 4);
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0) {
      const unsigned base_family = eax >> 8 & 0xF;
      const unsigned extended = base_family == 0xF ? eax >> 20 & 0xFF : 0;
      return tile_prefetch_of({vendor, sizeof(vendor)}, base_family + extended);
    }
  }
#endif
  return {};
}

}  // namespace pkv
