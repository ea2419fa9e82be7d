// The tile kernel for AVX-512 (F, BW, DQ, VL).
// Not here: the kernel (tile_inl.h), its vectors (tile_avx512_inl.h).
#include "exec/cpu/tile_kernels.h"

#if defined(__x86_64__)

#define PKV_TILE_NAMESPACE tile_avx512
#define PKV_TILE_VECTORS "exec/cpu/tile_avx512_inl.h"
#define PKV_TILE_BF16 0
#define PKV_TILE_AMX 0
#define PKV_TILE_INTO_L1 0
#define PKV_TILE_ISA "avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl"
#include "exec/cpu/tile_inl.h"

namespace pkv {

bool avx512_tile_takes(const AttentionShape& shape) { return shape.head_dim % 16 == 0; }

RanKernel avx512_tile_decode(const StepArgs& args, const Task& task, const Scratch& scratch,
                             const Lookahead& lookahead) {
  if (args.prefetch.into_l1) {
    return avx512_l1_tile_decode(args, task, scratch, lookahead);
  }
  using tile_avx512::Kind;
  switch (args.kv.dtype) {
    case DType::kF32: tile_avx512::TaskRun<Kind::kF32>(args, task, scratch).run(lookahead); break;
    case DType::kF16: tile_avx512::TaskRun<Kind::kF16>(args, task, scratch).run(lookahead); break;
    case DType::kBF16: tile_avx512::TaskRun<Kind::kBF16>(args, task, scratch).run(lookahead); break;
  }
  return {.kernel = DecodeKernel::kAvx512Tile, .isa = Isa::kAvx512};
}

}  // namespace pkv

#endif  // x86-64
