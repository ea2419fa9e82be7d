// CUDA's runtime behind error values: devices, memory, streams, events.
// Not here: kernels, plans.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <utility>

#include "persistentkv/backend.h"
#include "persistentkv/cuda.h"
#include "persistentkv/result.h"

namespace pkv::cuda {

/// kResourceExhausted for memory, else kUnsupported with CUDA's own words; `where` is the call.
Error cuda_error(cudaError_t code, std::string where);
inline Status check(cudaError_t code, const char* where) {
  if (code == cudaSuccess) {
    return {};
  }
  return cuda_error(code, where);
}

Result<CudaDevice> read_device(std::int32_t ordinal);

/// Device memory that frees itself. Grows by a quarter more than asked, so that a batch whose rows grow
/// token by token seldom allocates.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer();

  /// Contents are lost when it grows. Errors: kResourceExhausted with the bytes and what is free.
  Status reserve(std::int64_t bytes, const char* what);
  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::int64_t size() const { return size_; }

 private:
  void swap(DeviceBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }
  std::byte* data_ = nullptr;
  std::int64_t size_ = 0;
};

/// The same in page-locked host memory, from which copies are asynchronous.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  ~PinnedBuffer();
  Status reserve(std::int64_t bytes, const char* what);
  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::int64_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  std::int64_t size_ = 0;
};

class Event {
 public:
  Event() = default;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event();
  /// Errors: those of CUDA.
  Status make(unsigned flags);
  [[nodiscard]] cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

/// DeviceMemory of one GPU by cudaMalloc and synchronous copies.
class CudaMemory final : public DeviceMemory {
 public:
  CudaMemory(std::int32_t device, std::int64_t cache_bytes) : device_(device), cache_bytes_(cache_bytes) {}
  Result<void*> allocate(std::int64_t bytes) override;
  void release(void* memory) override;
  Status upload(void* device, const void* host, std::int64_t bytes) override;
  Status download(void* host, const void* device, std::int64_t bytes) override;
  [[nodiscard]] std::int64_t available_bytes() const override;
  [[nodiscard]] std::int64_t cache_bytes() const override { return cache_bytes_; }

 private:
  std::int32_t device_;
  std::int64_t cache_bytes_;
};

}  // namespace pkv::cuda
