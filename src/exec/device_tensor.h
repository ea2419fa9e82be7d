// DeviceTensor: a piece of a backend's device memory that frees itself, and copies to and from it.
// Not here: which backend, layouts of tensors.
#pragma once

#include <cstdint>
#include <utility>

#include "persistentkv/backend.h"
#include "persistentkv/result.h"

namespace pkv {

/// Grows, never shrinks. The DeviceMemory outlives it.
class DeviceTensor {
 public:
  explicit DeviceTensor(DeviceMemory& memory) : memory_(&memory) {}
  DeviceTensor(DeviceTensor&& other) noexcept : memory_(other.memory_) { swap(other); }
  DeviceTensor& operator=(DeviceTensor&& other) noexcept {
    swap(other);
    return *this;
  }
  DeviceTensor(const DeviceTensor&) = delete;
  DeviceTensor& operator=(const DeviceTensor&) = delete;
  ~DeviceTensor() { memory_->release(data_); }

  /// At least that many bytes; what was in it is lost when it grows. Errors: those of allocate().
  Status grow(std::int64_t bytes);
  /// Grows to `bytes` and copies as many there. Nothing is done for 0.
  Status upload(const void* host, std::int64_t bytes);
  /// Copies the first `bytes`. Requires bytes <= size().
  Status download(void* host, std::int64_t bytes) const;

  [[nodiscard]] void* data() const { return data_; }
  [[nodiscard]] std::int64_t size() const { return size_; }
  template <typename T>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void swap(DeviceTensor& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  DeviceMemory* memory_;
  void* data_ = nullptr;
  std::int64_t size_ = 0;
};

}  // namespace pkv
