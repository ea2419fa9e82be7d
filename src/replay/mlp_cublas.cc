// Weights as [out][in], as models store them, so that every GEMM is cuBLAS's transposed-by-plain case.
// Not here: builds without CUDA (mlp_no_cublas.cc).
#include "replay/mlp_cublas.h"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <vector>

#include "exec/device_tensor.h"
#include "replay/mlp_sizes.h"
#include "replay/random_data.h"

namespace pkv {
namespace {

constexpr std::int64_t kElementBytes = 2;
constexpr double kNsPerMs = 1e6;

Status check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) {
    return {};
  }
  return Error{status == CUBLAS_STATUS_ALLOC_FAILED ? ErrorCode::kResourceExhausted : ErrorCode::kUnsupported,
               fmt::format("cuBLAS: {} in {}", cublasGetStatusString(status), call), "mlp"};
}

Status check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) {
    return {};
  }
  return Error{status == cudaErrorMemoryAllocation ? ErrorCode::kResourceExhausted : ErrorCode::kUnsupported,
               fmt::format("CUDA: {} in {}", cudaGetErrorString(status), call), "mlp"};
}

/// The calling thread's device, as it was before.
class DeviceScope {
 public:
  explicit DeviceScope(std::int32_t device) {
    cudaGetDevice(&before_);
    cudaSetDevice(device);
  }
  ~DeviceScope() { cudaSetDevice(before_); }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_ = 0;
};

class CublasLayer final : public MlpLayer {
 public:
  CublasLayer(const GemmSizes& sizes, std::int64_t max_rows, CudaBackend& backend)
      : sizes_(sizes),
        max_rows_(max_rows),
        backend_(backend),
        workspace_(*backend.device_memory()),
        src_(*backend.device_memory()),
        dst_(*backend.device_memory()) {}

  ~CublasLayer() override {
    const DeviceScope scope(backend_.device().ordinal);
    if (begin_ != nullptr) {
      cudaEventDestroy(begin_);
    }
    if (end_ != nullptr) {
      cudaEventDestroy(end_);
    }
    if (handle_ != nullptr) {
      cublasDestroy(handle_);
    }
  }
  CublasLayer(const CublasLayer&) = delete;
  CublasLayer& operator=(const CublasLayer&) = delete;

  Status prepare(std::uint64_t seed) {
    const DeviceScope scope(backend_.device().ordinal);
    PKV_RETURN_IF_ERROR(check(cublasCreate(&handle_), "cublasCreate"));
    PKV_RETURN_IF_ERROR(check(cudaEventCreate(&begin_), "cudaEventCreate"));
    PKV_RETURN_IF_ERROR(check(cudaEventCreate(&end_), "cudaEventCreate"));
    PKV_RETURN_IF_ERROR(workspace_.grow(kCublasWorkspaceBytes));
    PKV_RETURN_IF_ERROR(dst_.grow(max_rows_ * largest_out(sizes_) * kElementBytes));
    const RandomBlock block(DType::kBF16, seed);
    PKV_RETURN_IF_ERROR(fill(src_, block, max_rows_ * largest_in(sizes_), kNumGemms));
    for (std::size_t i = 0; i < kNumGemms; ++i) {
      weights_.emplace_back(*backend_.device_memory());
      PKV_RETURN_IF_ERROR(fill(weights_.back(), block, sizes_[i].in * sizes_[i].out, i));
    }
    staging_ = {};
    return {};
  }

  Result<std::int64_t> run(std::int32_t num_rows) override {
    if (num_rows < 1 || num_rows > max_rows_) {
      return Error{ErrorCode::kOutOfRange, fmt::format("{} rows, must be 1 to {}", num_rows, max_rows_), "mlp"};
    }
    const DeviceScope scope(backend_.device().ordinal);
    auto* stream = static_cast<cudaStream_t>(backend_.stream());
    // Setting a stream resets the workspace: first the one, then the other.
    PKV_RETURN_IF_ERROR(check(cublasSetStream(handle_, stream), "cublasSetStream"));
    PKV_RETURN_IF_ERROR(
        check(cublasSetWorkspace(handle_, workspace_.data(), static_cast<std::size_t>(workspace_.size())),
              "cublasSetWorkspace"));
    if (warm_.insert(num_rows).second) {
      PKV_RETURN_IF_ERROR(enqueue(num_rows));  // kernels are chosen and loaded on the first call of their size
    }
    PKV_RETURN_IF_ERROR(check(cudaEventRecord(begin_, stream), "cudaEventRecord"));
    PKV_RETURN_IF_ERROR(enqueue(num_rows));
    PKV_RETURN_IF_ERROR(check(cudaEventRecord(end_, stream), "cudaEventRecord"));
    PKV_RETURN_IF_ERROR(check(cudaEventSynchronize(end_), "cudaEventSynchronize"));
    float elapsed_ms = 0.0F;
    PKV_RETURN_IF_ERROR(check(cudaEventElapsedTime(&elapsed_ms, begin_, end_), "cudaEventElapsedTime"));
    return static_cast<std::int64_t>(static_cast<double>(elapsed_ms) * kNsPerMs);
  }

 private:
  /// Random values, piece by piece through host memory.
  Status fill(DeviceTensor& tensor, const RandomBlock& block, std::int64_t num_elements, std::uint64_t tensor_idx) {
    PKV_RETURN_IF_ERROR(tensor.grow(num_elements * kElementBytes));
    staging_.resize(static_cast<std::size_t>(std::min(kWeightPieceElements, largest_weight(sizes_))));
    const auto piece = static_cast<std::int64_t>(staging_.size());
    for (std::int64_t begin = 0; begin < num_elements; begin += piece) {
      const std::int64_t count = std::min(piece, num_elements - begin);
      block.fill(staging_.data(), count, (tensor_idx << 32) + static_cast<std::uint64_t>(begin / piece));
      PKV_RETURN_IF_ERROR(
          backend_.device_memory()->upload(tensor.as<std::uint16_t>() + begin, staging_.data(), count * kElementBytes));
    }
    return {};
  }

  /// cuBLAS counts columns first: its out x rows result is our [rows][out].
  Status enqueue(std::int32_t num_rows) {
    const float one = 1.0F;
    const float zero = 0.0F;
    for (std::size_t i = 0; i < kNumGemms; ++i) {
      const auto in = static_cast<int>(sizes_[i].in);
      const auto out = static_cast<int>(sizes_[i].out);
      PKV_RETURN_IF_ERROR(check(cublasGemmEx(handle_, CUBLAS_OP_T, CUBLAS_OP_N, out, num_rows, in, &one,
                                             weights_[i].data(), CUDA_R_16BF, in, src_.data(), CUDA_R_16BF, in, &zero,
                                             dst_.data(), CUDA_R_16BF, out, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                                "cublasGemmEx"));
    }
    return {};
  }

  GemmSizes sizes_;
  std::int64_t max_rows_;
  CudaBackend& backend_;
  cublasHandle_t handle_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
  DeviceTensor workspace_;
  std::vector<DeviceTensor> weights_;  // [out][in] each
  // Every GEMM reads the one and writes the other, whatever its row count.
  DeviceTensor src_;
  DeviceTensor dst_;
  std::vector<std::uint16_t> staging_;
  std::set<std::int32_t> warm_;
};

}  // namespace

Result<std::unique_ptr<MlpLayer>> make_cublas_mlp(const AttentionShape& shape, const MlpProxy& sizes,
                                                  const MlpLayer::Setting& setting, CudaBackend& backend) {
  auto layer = std::make_unique<CublasLayer>(layer_gemms(shape, sizes), setting.max_rows, backend);
  PKV_RETURN_IF_ERROR(layer->prepare(setting.seed));
  return std::unique_ptr<MlpLayer>(std::move(layer));
}

}  // namespace pkv
