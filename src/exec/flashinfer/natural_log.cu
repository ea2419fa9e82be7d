// FlashInfer's LSE, which counts in powers of two, to the natural logarithm of this project's contract.
// Not here: FlashInfer's kernels.
#include "exec/flashinfer/kernels.h"

namespace pkv::fi {
namespace {

constexpr int kThreads = 256;
constexpr float kLn2 = 0.693147180559945309F;

__global__ void scale_lse(float* lse, std::int64_t count) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) {
    lse[i] *= kLn2;
  }
}

}  // namespace

cudaError_t to_natural_log(float* lse, std::int64_t count, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((count + kThreads - 1) / kThreads);
  scale_lse<<<blocks, kThreads, 0, stream>>>(lse, count);
  return cudaGetLastError();
}

}  // namespace pkv::fi
