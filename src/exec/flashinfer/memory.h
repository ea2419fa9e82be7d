// CUDA memory and events of the flashinfer routes, with errors as values.
// Not here: the backend's own memory (src/exec/cuda), which links this folder and so cannot be linked by it.
#pragma once

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "persistentkv/result.h"

namespace pkv::fi {

inline Status check_cuda(cudaError_t error, std::string where) {
  if (error == cudaSuccess) {
    return {};
  }
  cudaGetLastError();  // it is reported here: the next call must not find it
  return Error{error == cudaErrorMemoryAllocation ? ErrorCode::kResourceExhausted : ErrorCode::kUnsupported,
               cudaGetErrorString(error), std::move(where)};
}

enum class Where { kDevice, kPinned };

/// Memory that frees itself; its contents are lost when it grows.
template <Where kWhere>
class Buffer {
 public:
  /// Half as much again as before at least, so that rows that grow token by token seldom allocate.
  /// Nothing on the device may still use the memory.
  Status grow(std::size_t bytes) {
    if (bytes <= size_) {
      return {};
    }
    const std::size_t size = bytes > size_ + size_ / 2 ? bytes : size_ + size_ / 2;
    size_ = 0;
    memory_.reset();
    void* memory = nullptr;
    const cudaError_t error =
        kWhere == Where::kDevice ? cudaMalloc(&memory, size) : cudaHostAlloc(&memory, size, cudaHostAllocDefault);
    PKV_RETURN_IF_ERROR(check_cuda(error, fmt::format("{} bytes of {} memory for FlashInfer", size,
                                                      kWhere == Where::kDevice ? "device" : "page-locked")));
    memory_.reset(memory);
    size_ = size;
    return {};
  }
  [[nodiscard]] void* data() const { return memory_.get(); }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(void* memory) const { kWhere == Where::kDevice ? cudaFree(memory) : cudaFreeHost(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  std::size_t size_ = 0;
};

/// A point on a stream that the host can wait for.
class Event {
 public:
  Status make() {
    cudaEvent_t event = nullptr;
    PKV_RETURN_IF_ERROR(check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "FlashInfer event"));
    event_.reset(event);
    return {};
  }
  Status record(cudaStream_t stream) { return check_cuda(cudaEventRecord(event_.get(), stream), "FlashInfer event"); }
  /// Returns at once when nothing was recorded.
  Status wait() { return check_cuda(cudaEventSynchronize(event_.get()), "FlashInfer event"); }

 private:
  struct Destroy {
    void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
  };
  std::unique_ptr<CUevent_st, Destroy> event_;
};

}  // namespace pkv::fi
