// The MLP proxy on a GPU: the seven GEMMs by cuBLAS on the CUDA backend's stream.
// Not here: their sizes (mlp_sizes.h), the proxy on a CPU (mlp_proxy.h).
#pragma once

#include <cstdint>
#include <memory>

#include "persistentkv/cuda.h"
#include "persistentkv/result.h"
#include "replay/mlp_proxy.h"

namespace pkv {

/// bf16 with FP32 accumulation, random weights. run() is the time between two events on the stream, and waits
/// for it. The backend outlives the layer.
/// Errors: kUnsupported (a build without CUDA, or with cuBLAS's own words), kResourceExhausted.
Result<std::unique_ptr<MlpLayer>> make_cublas_mlp(const AttentionShape& shape, const MlpProxy& sizes,
                                                  const MlpLayer::Setting& setting, CudaBackend& backend);

/// Bytes of device memory that it allocates: weights, activations, cuBLAS's workspace.
std::int64_t cublas_mlp_bytes(const AttentionShape& shape, const MlpProxy& sizes, std::int64_t max_rows);
/// Bytes of host memory while weights are copied.
std::int64_t cublas_mlp_host_bytes();

/// cuBLAS's workspace: what it recommends for sm_90.
inline constexpr std::int64_t kCublasWorkspaceBytes = std::int64_t{32} << 20;
/// Weights are filled and copied in pieces of that many elements.
inline constexpr std::int64_t kWeightPieceElements = std::int64_t{1} << 24;

}  // namespace pkv
