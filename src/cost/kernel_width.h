// How much of an SM a task gets. Apart from the prices, so that kernels are not compiled anew when those change.
#pragma once

#include <cstdint>

namespace pkv {

/// One long task is read fastest by all of an SM's warps; of many short ones a few each, so that the others read while
/// one begins or ends. How many share an SM differs by head dimension and group: GpuKernelCost::blocks_per_sm.
enum class KernelWidth : std::uint8_t { kWide, kMedium, kNarrow, kSlim };
inline constexpr int kNumKernelWidths = 4;

}  // namespace pkv
