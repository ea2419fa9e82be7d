// The table of tensor-core kernels, and the choice of the cheapest that covers a shape.
// Not here: kernels.
#include <cstdlib>
#include <vector>

#include "exec/cuda/inst/inst.h"
#include "exec/cuda/kernels.h"

namespace pkv::cuda {

std::span<const KernelEntry> mma_kernels() {
  static const std::vector<KernelEntry> all = [] {
    std::vector<KernelEntry> entries;
    for (const auto part : {decode_f16_d64(), decode_f16_d128(), decode_f16_d256(), decode_bf16_d64(),
                            decode_bf16_d128(), decode_bf16_d256()}) {
      entries.insert(entries.end(), part.begin(), part.end());
    }
    return entries;
  }();
  return all;
}

const KernelEntry* find_mma_kernel(ElementType type, std::int32_t head_dim, std::int32_t group_size, KernelWidth width,
                                   std::int64_t shared_bytes) {
  const KernelEntry* found = nullptr;
  for (const KernelEntry& entry : mma_kernels()) {
    if (entry.type != type || head_dim > entry.max_head_dim || group_size > entry.max_group_size ||
        entry.shared_bytes > shared_bytes) {
      continue;
    }
    if (found != nullptr &&
        (entry.max_head_dim > found->max_head_dim || entry.max_group_size > found->max_group_size)) {
      break;  // the table is in this order: only looser ones follow
    }
    const auto distance = [&](const KernelEntry& e) {
      return std::abs(static_cast<int>(e.width) - static_cast<int>(width));
    };
    found = found == nullptr || distance(entry) < distance(*found) ? &entry : found;
  }
  return found;
}

}  // namespace pkv::cuda
