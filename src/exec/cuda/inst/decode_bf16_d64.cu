// Tensor-core decode kernels for bf16, head dimensions up to 64.
// Not here: their code (decode.cuh), the list (instances.h).
#include "exec/cuda/decode_kernel.cuh"
#include "exec/cuda/inst/inst.h"
#include "exec/cuda/instances.h"

namespace pkv::cuda {

std::span<const KernelEntry> decode_bf16_d64() {
#define PKV_ENTRY(width, d, m, s, w, st, b, t)                     \
  decode_entry<DecodeConfig<__nv_bfloat16, d, m, s, w, st, b, t>>( \
      "mma bf16 d" #d " m" #m "x" #s " w" #w " s" #st " b" #b " t" #t, ElementType::kBF16, KernelWidth::width),
  static const KernelEntry entries[] = {PKV_DECODE_D64(PKV_ENTRY)};
#undef PKV_ENTRY
  return entries;
}

}  // namespace pkv::cuda
