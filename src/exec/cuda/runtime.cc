// Thin: every call's code becomes a Status.
#include "exec/cuda/runtime.h"

#include <fmt/format.h>

namespace pkv {
namespace cuda {
namespace {

std::int64_t free_bytes() {
  std::size_t available = 0;
  std::size_t total = 0;
  return cudaMemGetInfo(&available, &total) == cudaSuccess ? static_cast<std::int64_t>(available) : 0;
}

Error no_memory(std::int64_t bytes, const std::string& what) {
  cudaGetLastError();  // the next call must not find this failure
  return {ErrorCode::kResourceExhausted,
          fmt::format("{} bytes of {} cannot be allocated; {} bytes are free", bytes, what, free_bytes()),
          "cuda memory"};
}

}  // namespace

namespace {
// Of the double data rate's peak: H100 3.2 of 3.35 TB/s, H200 4.58 of 4.8.
constexpr double kReadShare = 0.955;
}  // namespace

Error cuda_error(cudaError_t code, std::string where) {
  const ErrorCode kind = code == cudaErrorMemoryAllocation ? ErrorCode::kResourceExhausted : ErrorCode::kUnsupported;
  return {kind, fmt::format("{} ({})", cudaGetErrorString(code), cudaGetErrorName(code)), std::move(where)};
}

Result<CudaDevice> read_device(std::int32_t ordinal) {
  cudaDeviceProp properties{};
  PKV_RETURN_IF_ERROR(check(cudaGetDeviceProperties(&properties, ordinal), "cudaGetDeviceProperties"));
  CudaDevice device;
  device.ordinal = ordinal;
  device.name = properties.name;
  device.compute_major = properties.major;
  device.compute_minor = properties.minor;
  device.num_sms = properties.multiProcessorCount;
  device.memory_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
  device.l2_bytes = properties.l2CacheSize;
  device.shared_bytes_per_block = static_cast<std::int64_t>(properties.sharedMemPerBlockOptin);
  int clock_khz = 0;
  int width_bits = 0;
  PKV_RETURN_IF_ERROR(check(cudaDeviceGetAttribute(&clock_khz, cudaDevAttrMemoryClockRate, ordinal), "memory clock"));
  PKV_RETURN_IF_ERROR(
      check(cudaDeviceGetAttribute(&width_bits, cudaDevAttrGlobalMemoryBusWidth, ordinal), "bus width"));
  device.read_bytes_per_us = kReadShare * 2.0 * clock_khz * 1e-3 * width_bits / 8.0;
  PKV_RETURN_IF_ERROR(check(cudaDriverGetVersion(&device.driver_version), "cudaDriverGetVersion"));
  PKV_RETURN_IF_ERROR(check(cudaRuntimeGetVersion(&device.runtime_version), "cudaRuntimeGetVersion"));
  return device;
}

DeviceBuffer::~DeviceBuffer() { cudaFree(data_); }

Status DeviceBuffer::reserve(std::int64_t bytes, const char* what) {
  if (bytes <= size_) {
    return {};
  }
  const std::int64_t wanted = bytes + bytes / 4;
  cudaFree(data_);
  data_ = nullptr;
  size_ = 0;
  void* memory = nullptr;
  if (cudaMalloc(&memory, static_cast<std::size_t>(wanted)) != cudaSuccess) {
    return no_memory(wanted, what);
  }
  data_ = static_cast<std::byte*>(memory);
  size_ = wanted;
  return {};
}

PinnedBuffer::~PinnedBuffer() { cudaFreeHost(data_); }

Status PinnedBuffer::reserve(std::int64_t bytes, const char* what) {
  if (bytes <= size_) {
    return {};
  }
  const std::int64_t wanted = bytes + bytes / 4;
  cudaFreeHost(data_);
  data_ = nullptr;
  size_ = 0;
  void* memory = nullptr;
  if (cudaMallocHost(&memory, static_cast<std::size_t>(wanted)) != cudaSuccess) {
    return no_memory(wanted, what);
  }
  data_ = static_cast<std::byte*>(memory);
  size_ = wanted;
  return {};
}

Event::~Event() {
  if (event_ != nullptr) {
    cudaEventDestroy(event_);
  }
}

Status Event::make(unsigned flags) { return check(cudaEventCreateWithFlags(&event_, flags), "cudaEventCreate"); }

Result<void*> CudaMemory::allocate(std::int64_t bytes) {
  PKV_RETURN_IF_ERROR(check(cudaSetDevice(device_), "cudaSetDevice"));
  void* memory = nullptr;
  if (cudaMalloc(&memory, static_cast<std::size_t>(bytes)) != cudaSuccess) {
    return no_memory(bytes, "device memory");
  }
  return memory;
}

void CudaMemory::release(void* memory) { cudaFree(memory); }

Status CudaMemory::upload(void* device, const void* host, std::int64_t bytes) {
  return check(cudaMemcpy(device, host, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice), "copy to the device");
}

Status CudaMemory::download(void* host, const void* device, std::int64_t bytes) {
  return check(cudaMemcpy(host, device, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost),
               "copy from the device");
}

std::int64_t CudaMemory::available_bytes() const { return free_bytes(); }

}  // namespace cuda

bool cuda_built() { return true; }

Result<std::vector<CudaDevice>> cuda_devices() {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code != cudaSuccess || count == 0) {
    cudaGetLastError();
    return Error{ErrorCode::kUnsupported, code == cudaSuccess ? "the driver lists no GPU" : cudaGetErrorString(code),
                 "cuda"};
  }
  std::vector<CudaDevice> devices;
  for (int i = 0; i < count; ++i) {
    auto device = cuda::read_device(i);
    if (!device.ok()) {
      return device.error();
    }
    devices.push_back(*std::move(device));
  }
  return devices;
}

}  // namespace pkv
