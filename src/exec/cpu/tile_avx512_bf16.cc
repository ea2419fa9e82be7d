// The tile kernel for AVX512-BF16: bf16 keys are multiplied by vdpbf16ps.
// Not here: the kernel (tile_inl.h), its vectors (tile_avx512_inl.h).
#include "exec/cpu/tile_kernels.h"

#if defined(__x86_64__)

#define PKV_TILE_NAMESPACE tile_avx512_bf16
#define PKV_TILE_VECTORS "exec/cpu/tile_avx512_inl.h"
#define PKV_TILE_BF16 1
#define PKV_TILE_AMX 0
#define PKV_TILE_INTO_L1 0
#define PKV_TILE_ISA "avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"
#include "exec/cpu/tile_inl.h"

namespace pkv {

bool avx512_bf16_tile_takes(const AttentionShape& shape, DType kv_dtype, DType q_dtype) {
  return kv_dtype == DType::kBF16 && q_dtype == DType::kBF16 && shape.head_dim % 16 == 0;
}

RanKernel avx512_bf16_tile_decode(const StepArgs& args, const Task& task, const Scratch& scratch,
                                  const Lookahead& lookahead) {
  if (args.prefetch.into_l1) {
    return avx512_bf16_l1_tile_decode(args, task, scratch, lookahead);
  }
  tile_avx512_bf16::TaskRun<tile_avx512_bf16::Kind::kBF16Dot>(args, task, scratch).run(lookahead);
  return {.kernel = DecodeKernel::kAvx512Bf16Tile, .isa = Isa::kAvx512Bf16};
}

}  // namespace pkv

#endif  // x86-64
