// The decode kernels that are written for one instruction set, and which steps they take.
// Not here: the kernels themselves (tile_inl.h), the kernel for everything (decode_inl.h).
#pragma once

#include "exec/cpu/kernels.h"

namespace pkv {

/// AVX2, FMA and F16C in intrinsics: all types, head_dim a multiple of 16.
bool avx2_tile_takes(const AttentionShape& shape);
RanKernel avx2_tile_decode(const StepArgs& args, const Task& task, const Scratch& scratch, const Lookahead& lookahead);

/// AVX-512 in intrinsics: all types, head_dim a multiple of 16.
bool avx512_tile_takes(const AttentionShape& shape);
RanKernel avx512_tile_decode(const StepArgs& args, const Task& task, const Scratch& scratch,
                             const Lookahead& lookahead);

/// The same that prefetches into the L1 (TilePrefetch::into_l1), which avx512_tile_decode leaves such steps to.
RanKernel avx512_l1_tile_decode(const StepArgs& args, const Task& task, const Scratch& scratch,
                                const Lookahead& lookahead);

/// vdpbf16ps in QK: bf16 K, V and queries, head_dim a multiple of 16.
bool avx512_bf16_tile_takes(const AttentionShape& shape, DType kv_dtype, DType q_dtype);
RanKernel avx512_bf16_tile_decode(const StepArgs& args, const Task& task, const Scratch& scratch,
                                  const Lookahead& lookahead);

/// As avx512_l1_tile_decode.
RanKernel avx512_bf16_l1_tile_decode(const StepArgs& args, const Task& task, const Scratch& scratch,
                                     const Lookahead& lookahead);

/// Groups that AMX pays for: on an Emerald Rapids core it is slower than vdpbf16ps for 1 and 2 (decision 0009).
inline constexpr std::int32_t kAmxLeastGroup = 3;

/// tdpbf16ps in QK and PV: bf16 K, V and queries, head_dim a multiple of 32, groups of kAmxLeastGroup and more.
bool amx_tile_takes(const AttentionShape& shape, DType kv_dtype, DType q_dtype);
/// Whether this process may run it: the CPU has AMX-BF16, and the system lets the process use its registers, which
/// the first call asks for.
bool amx_runs();
RanKernel amx_tile_decode(const StepArgs& args, const Task& task, const Scratch& scratch, const Lookahead& lookahead);

}  // namespace pkv
