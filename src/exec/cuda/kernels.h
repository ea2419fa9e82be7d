// The kernels there are, as a table: what each serves, and what a launch of it needs.
// Not here: kernels (decode.cuh, simple.cuh, merge.cuh), choosing a schedule.
#pragma once

#include <cstdint>
#include <span>

#include "cost/kernel_width.h"
#include "exec/cuda/params.h"

namespace pkv::cuda {

struct KernelEntry {
  const char* name = "";
  /// For cudaLaunchKernelExC; the one argument is a LayerParams.
  const void* function = nullptr;
  std::int32_t threads = 0;
  std::int32_t shared_bytes = 0;
  /// Blocks that an SM is meant to hold, by registers: 65536 / (threads * blocks) of them a thread at most.
  std::int32_t blocks_per_sm = 0;
  ElementType type = ElementType::kF16;
  KernelWidth width = KernelWidth::kWide;
  std::int32_t max_head_dim = 0;
  std::int32_t max_group_size = 0;
};

/// Shared memory of an SM by architecture as __CUDA_ARCH__ writes it; a block can have 1 KB less.
constexpr std::int32_t shared_bytes_per_sm(std::int32_t arch) {
  const std::int32_t kilobytes = arch == 860 || arch == 890 || arch == 1200 ? 100 : arch == 800 ? 164 : 228;
  return kilobytes * 1024;
}

/// What a block takes beside its dynamic shared memory: the GPU's part, and a decode kernel's static variables.
inline constexpr std::int32_t kBlockBytes = 1024 + 128;

/// Blocks of `shared_bytes` that an SM can hold, up to `wanted`: what the registers must leave room for.
constexpr std::int32_t blocks_that_fit(std::int32_t arch, std::int32_t shared_bytes, std::int32_t wanted) {
  const std::int32_t fit = shared_bytes_per_sm(arch) / (shared_bytes + kBlockBytes);
  return fit < 1 ? 1 : fit < wanted ? fit : wanted;
}

/// Every tensor-core kernel, smallest head dimension and group first within a type, wide before narrow.
std::span<const KernelEntry> mma_kernels();

/// The tightest that covers the shape and fits the shared memory of a block, of the width asked for or else the
/// nearest; null when none does.
const KernelEntry* find_mma_kernel(ElementType type, std::int32_t head_dim, std::int32_t group_size, KernelWidth width,
                                   std::int64_t shared_bytes);
/// Serves everything.
const KernelEntry& simple_kernel(ElementType type);

struct MergeEntry {
  KernelEntry kernel;
  std::int32_t units_per_block = 1;  // (merge range, query head, unit_dims dimensions)
  std::int32_t unit_dims = kMergeDims;
  std::int32_t splits_at_once = 1;  // that one round of loads takes
};
/// From the least threads and splits at once to the most. The choice, and the grid: launch.h.
std::span<const MergeEntry> merge_kernels();

/// Reads what `read_pages` of cuda.h describes: params of page_read.cuh.
struct PageReadParams {
  const std::int32_t* page_ids = nullptr;
  std::int64_t num_page_ids = 0;
  const void* k = nullptr;
  const void* v = nullptr;
  std::int64_t k_page_bytes = 0;  // from one page to the next
  std::int64_t v_page_bytes = 0;
  std::int32_t read_bytes = 0;  // of a page of K, and as much of V; a multiple of 16
  std::uint32_t* sink = nullptr;
};
const KernelEntry& page_read_kernel();

}  // namespace pkv::cuda
