// What the cuBLAS proxy says in a build without CUDA.
// Not here: anything that runs.
#include "replay/mlp_cublas.h"

namespace pkv {

Result<std::unique_ptr<MlpLayer>> make_cublas_mlp(const AttentionShape&, const MlpProxy&, const MlpLayer::Setting&,
                                                  CudaBackend&) {
  return Error{ErrorCode::kUnsupported, "this build has no CUDA, and so no cuBLAS; configure with -DPKV_CUDA=ON",
               "mlp"};
}

}  // namespace pkv
