// GpuMachine: what rules and prices of GPU schedules need to know of a GPU.
// Not here: the driver's facts (CudaDevice), fitted profiles (DeviceProfile).
#pragma once

#include <cstdint>

namespace pkv {

struct GpuMachine {
  std::int32_t num_sms = 0;
  /// Of all SMs together, in bytes a microsecond, as a streaming read reaches it.
  double read_bytes_per_us = 0.0;
  /// Whether the layers of a step follow each other with nothing between, as in a graph of attention alone: a launch
  /// that leaves room then hides the start of the next. In a model other kernels run between.
  bool back_to_back = false;

  /// By default SMs read as an H100's do. Implicit: often their number is all that is known.
  // NOLINTNEXTLINE(google-explicit-constructor)
  GpuMachine(std::int32_t sms, double bytes_per_us = 0.0)
      : num_sms(sms), read_bytes_per_us(bytes_per_us > 0.0 ? bytes_per_us : kH100BytesPerUsAndSm * sms) {}

  static constexpr double kH100BytesPerUsAndSm = 3.2e6 / 132;
};

}  // namespace pkv
