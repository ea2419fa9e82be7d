// The tile kernel for AVX-512 of CPUs that prefetch into the L1.
// Not here: the kernel (tile_inl.h), its vectors (tile_avx512_inl.h).
#include "exec/cpu/tile_kernels.h"

#if defined(__x86_64__)

#define PKV_TILE_NAMESPACE tile_avx512_l1
#define PKV_TILE_VECTORS "exec/cpu/tile_avx512_inl.h"
#define PKV_TILE_BF16 0
#define PKV_TILE_AMX 0
#define PKV_TILE_INTO_L1 1
#define PKV_TILE_ISA "avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl"
#include "exec/cpu/tile_inl.h"

namespace pkv {

RanKernel avx512_l1_tile_decode(const StepArgs& args, const Task& task, const Scratch& scratch,
                                const Lookahead& lookahead) {
  using tile_avx512_l1::Kind;
  switch (args.kv.dtype) {
    case DType::kF32: tile_avx512_l1::TaskRun<Kind::kF32>(args, task, scratch).run(lookahead); break;
    case DType::kF16: tile_avx512_l1::TaskRun<Kind::kF16>(args, task, scratch).run(lookahead); break;
    case DType::kBF16: tile_avx512_l1::TaskRun<Kind::kBF16>(args, task, scratch).run(lookahead); break;
  }
  return {.kernel = DecodeKernel::kAvx512Tile, .isa = Isa::kAvx512, .into_l1 = true};
}

}  // namespace pkv

#endif  // x86-64
