// The probes' inner loops of one instruction set, as functions. Plain data.
// Not here: what is read and by whom (probe.h), the kernels of attention (kernels.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "persistentkv/cpu.h"

namespace pkv {

inline constexpr std::int32_t kMaxReadStreams = 4;
/// Bytes that a stream advances before the next one does: four lines.
inline constexpr std::int64_t kReadStepBytes = 256;

/// Into which cache a probe prefetches.
enum class ReadPrefetch : std::uint8_t { kNone, kL1, kL2 };
inline constexpr std::int32_t kNumReadPrefetches = 3;

/// "none", "l1", "l2".
std::string_view read_prefetch_name(ReadPrefetch prefetch);

/// Where the streams of one block begin; a block is `unit_bytes` of each.
struct ReadBlock {
  const std::byte* streams[kMaxReadStreams] = {};
};

/// Blocks [begin, end) of a walk; prefetches look `ahead` blocks further, up to the walk's last block.
struct ReadBlocks {
  std::span<const ReadBlock> walk;
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t unit_bytes = 0;  // a multiple of kReadStepBytes
  std::int64_t ahead = 1;
};

/// Rows [begin, end) of a walk over short or odd runs, one after the other; prefetches into L2 look `ahead` rows
/// further.
struct ReadRows {
  std::span<const std::byte* const> walk;
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t row_bytes = 0;  // a multiple of 4
  std::int64_t ahead = 1;
};

struct ProbeKernels {
  Isa isa = Isa::kPortable;
  /// [streams: 1, 2, 4][ReadPrefetch]: sum of the 32-bit words of all blocks.
  std::uint32_t (*read_blocks[3][kNumReadPrefetches])(const ReadBlocks& blocks) = {};
  /// Sum of the 32-bit words of all rows.
  std::uint32_t (*read_rows)(const ReadRows& rows) = nullptr;
  /// y[i] = exp(x[i]), x <= 0, by the exponential of the general kernel; count is a multiple of 64.
  void (*exp)(const float* x, float* y, std::int64_t count) = nullptr;

  /// Requires streams 1, 2 or 4.
  [[nodiscard]] auto reader(std::int32_t streams, ReadPrefetch prefetch) const {
    return read_blocks[streams / 2][static_cast<int>(prefetch)];
  }
};

/// Those compiled for an instruction set that this CPU runs; requires one of supported_isas(). Those of AVX-512
/// for avx512bf16 as well: it adds nothing to reading.
const ProbeKernels& probe_kernels(Isa isa);

}  // namespace pkv
