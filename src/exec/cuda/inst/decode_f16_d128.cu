// Tensor-core decode kernels for f16, head dimensions up to 128.
// Not here: their code (decode.cuh), the list (instances.h).
#include "exec/cuda/decode_kernel.cuh"
#include "exec/cuda/inst/inst.h"
#include "exec/cuda/instances.h"

namespace pkv::cuda {

std::span<const KernelEntry> decode_f16_d128() {
#define PKV_ENTRY(width, d, m, s, w, st, b, t)              \
  decode_entry<DecodeConfig<__half, d, m, s, w, st, b, t>>( \
      "mma f16 d" #d " m" #m "x" #s " w" #w " s" #st " b" #b " t" #t, ElementType::kF16, KernelWidth::width),
  static const KernelEntry entries[] = {PKV_DECODE_D128(PKV_ENTRY)};
#undef PKV_ENTRY
  return entries;
}

}  // namespace pkv::cuda
