// The tile kernel for AVX2, FMA and F16C.
// Not here: the kernel (tile_inl.h), its vectors (tile_avx2_inl.h).
#include "exec/cpu/tile_kernels.h"

#if defined(__x86_64__)

#define PKV_TILE_NAMESPACE tile_avx2
#define PKV_TILE_VECTORS "exec/cpu/tile_avx2_inl.h"
#define PKV_TILE_BF16 0
#define PKV_TILE_AMX 0
#define PKV_TILE_INTO_L1 0
#define PKV_TILE_ISA "avx2,fma,f16c,bmi,bmi2"
#include "exec/cpu/tile_inl.h"

namespace pkv {

bool avx2_tile_takes(const AttentionShape& shape) { return shape.head_dim % 16 == 0; }

RanKernel avx2_tile_decode(const StepArgs& args, const Task& task, const Scratch& scratch, const Lookahead& lookahead) {
  using tile_avx2::Kind;
  switch (args.kv.dtype) {
    case DType::kF32: tile_avx2::TaskRun<Kind::kF32>(args, task, scratch).run(lookahead); break;
    case DType::kF16: tile_avx2::TaskRun<Kind::kF16>(args, task, scratch).run(lookahead); break;
    case DType::kBF16: tile_avx2::TaskRun<Kind::kBF16>(args, task, scratch).run(lookahead); break;
  }
  return {.kernel = DecodeKernel::kAvx2Tile, .isa = Isa::kAvx2};
}

}  // namespace pkv

#endif  // x86-64
