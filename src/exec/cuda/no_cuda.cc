// What the library says about GPUs when it was built without CUDA.
// Not here: anything that runs.
#include "persistentkv/cuda.h"

namespace pkv {
namespace {

Error not_built() {
  return {ErrorCode::kUnsupported, "this build has no CUDA; configure with -DPKV_CUDA=ON (PKV_CUDA=on ./scripts/run)",
          "cuda"};
}

}  // namespace

bool cuda_built() { return false; }

Result<std::vector<CudaDevice>> cuda_devices() { return not_built(); }

Result<std::unique_ptr<CudaBackend>> CudaBackend::create(const CudaOptions&) { return not_built(); }

}  // namespace pkv
