// Growth by a new allocation: the old one is given back first, as there may be no room for both.
// Not here: the allocator of a device.
#include "exec/device_tensor.h"

#include "base/check.h"

namespace pkv {

Status DeviceTensor::grow(std::int64_t bytes) {
  if (bytes <= size_) {
    return {};
  }
  memory_->release(std::exchange(data_, nullptr));
  size_ = 0;
  const Result<void*> made = memory_->allocate(bytes);
  if (!made.ok()) {
    return made.error();
  }
  data_ = *made;
  size_ = bytes;
  return {};
}

Status DeviceTensor::upload(const void* host, std::int64_t bytes) {
  if (bytes == 0) {
    return {};
  }
  PKV_RETURN_IF_ERROR(grow(bytes));
  return memory_->upload(data_, host, bytes);
}

Status DeviceTensor::download(void* host, std::int64_t bytes) const {
  PKV_ASSERT(bytes <= size_);
  return bytes == 0 ? Status{} : memory_->download(host, data_, bytes);
}

}  // namespace pkv
