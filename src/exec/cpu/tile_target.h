// What tile_inl.h needs of the compiler: code for an instruction set that the rest of the build does not use.
// Not here: the kernel.
#pragma once

#define PKV_TILE_STRING_OF(...) #__VA_ARGS__
#define PKV_TILE_PRAGMA(...) _Pragma(PKV_TILE_STRING_OF(__VA_ARGS__))

// Flags on the command line would compile inline functions of headers for the ISA as well, and the linker might
// keep those for everybody.
#if defined(__clang__)
#define PKV_TILE_BEGIN_FOR(isa) PKV_TILE_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define PKV_TILE_END _Pragma("clang attribute pop")
#define PKV_TILE_ATTR_FOR(isa) __attribute__((target(isa)))
#else
#define PKV_TILE_BEGIN_FOR(isa) _Pragma("GCC push_options") PKV_TILE_PRAGMA(GCC target isa)
#define PKV_TILE_END _Pragma("GCC pop_options")
#define PKV_TILE_ATTR_FOR(isa)
#endif

#define PKV_TILE_INLINE inline __attribute__((always_inline))
