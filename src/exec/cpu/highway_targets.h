// The instruction sets that Highway compiles for: included before anything of Highway. Not here: kernels.
#pragma once

// Only the instruction sets that Isa names: SSE4 would add little to the portable path, and what AVX3_DL adds
// (VNNI, VBMI) the kernels do not use. Scalable vectors cannot be members of arrays, as accumulators are.
#include <hwy/detect_compiler_arch.h>
#if HWY_ARCH_X86
// Four emulated lanes, which gcc turns into SSE2, as the baseline. Highway avoids them on gcc before 12.3
// because of a bug in 16-bit high multiplications (gcc 106322), which no kernel here uses.
#define HWY_BROKEN_EMU128 0
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
// The portable path stays in builds for newer baselines (-march=native).
#define HWY_COMPILE_ALL_ATTAINABLE
#else
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#endif
