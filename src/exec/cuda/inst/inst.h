// What the instantiation files export to the kernel table.
// Not here: the table (kernel_table.cc).
#pragma once

#include <span>

#include "exec/cuda/kernels.h"

namespace pkv::cuda {

std::span<const KernelEntry> decode_f16_d64();
std::span<const KernelEntry> decode_f16_d128();
std::span<const KernelEntry> decode_f16_d256();
std::span<const KernelEntry> decode_bf16_d64();
std::span<const KernelEntry> decode_bf16_d128();
std::span<const KernelEntry> decode_bf16_d256();

}  // namespace pkv::cuda
