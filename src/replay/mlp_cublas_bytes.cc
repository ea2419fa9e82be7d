// What the cuBLAS proxy needs, counted in builds without CUDA too.
// Not here: the proxy (mlp_cublas.cc).
#include "replay/memory.h"
#include "replay/mlp_cublas.h"
#include "replay/mlp_sizes.h"
#include "replay/random_data.h"

namespace pkv {

std::int64_t cublas_mlp_bytes(const AttentionShape& shape, const MlpProxy& sizes, std::int64_t max_rows) {
  const std::int64_t elements = layer_elements(layer_gemms(shape, sizes), max_rows);
  return saturating_add(saturating_mul(elements, dtype_bytes(DType::kBF16)), kCublasWorkspaceBytes);
}

std::int64_t cublas_mlp_host_bytes() {
  return RandomBlock::block_bytes(DType::kBF16) + kWeightPieceElements * dtype_bytes(DType::kBF16);
}

}  // namespace pkv
