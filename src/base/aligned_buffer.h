// AlignedBuffer: memory from the system, page-aligned, on huge pages where the system gives them.
// Not here: who uses it, NUMA placement.
#pragma once

#include <cstddef>
#include <utility>

#include "persistentkv/result.h"

namespace pkv {

/// Owns `bytes` zero bytes from mmap, aligned to 2 MiB when that large, with huge pages advised.
/// Pages are untouched until written (first touch decides where they lie).
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  /// Errors: kResourceExhausted with the bytes asked for.
  static Result<AlignedBuffer> allocate(std::size_t bytes);

  AlignedBuffer(AlignedBuffer&& other) noexcept { swap(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer();

  [[nodiscard]] void* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  template <typename T>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void swap(AlignedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(mapping_, other.mapping_);
    std::swap(mapping_bytes_, other.mapping_bytes_);
  }
  void* data_ = nullptr;
  std::size_t size_ = 0;
  void* mapping_ = nullptr;
  std::size_t mapping_bytes_ = 0;
};

}  // namespace pkv
