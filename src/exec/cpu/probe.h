// Read probes: how fast this machine's workers can read memory, as the denominator of every speed.
// Not here: who asks (replay, `pkv doctor`), statistics over repeats.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/aligned_buffer.h"
#include "exec/cpu/kernels.h"
#include "exec/cpu/worker_pool.h"
#include "persistentkv/batch.h"
#include "persistentkv/layout.h"
#include "persistentkv/result.h"

namespace pkv {

/// One pass of a read probe.
struct ProbeResult {
  std::int64_t ns = 0;
  std::int64_t bytes = 0;
  /// Sum of all 32-bit words read: it depends on every byte, so that no read can be left out.
  std::uint32_t checksum = 0;

  [[nodiscard]] double gb_per_s() const {
    return ns == 0 ? 0.0 : static_cast<double>(bytes) / static_cast<double>(ns);  // bytes a ns are GB a s
  }
};

/// How `read_probe` walks its buffer.
struct ReadPattern {
  /// Bytes of a chunk, a multiple of 1024; chunks are read in random order. Not set: one sequential
  /// stream a worker.
  std::optional<std::int64_t> chunk_bytes = std::nullopt;
  /// Workers that read, 1 to the pool's; all when not set.
  std::optional<std::int32_t> workers = std::nullopt;
};

/// The chunk sizes that `pkv doctor` prints.
inline constexpr std::int64_t kProbeChunkBytes[] = {2048, 4096, 8192, 16384, 32768, 65536};

/// Memory for `read_probe`: written once by all workers, so that its pages exist and differ.
/// A fair measurement takes at least four times the last-level cache.
/// Errors: kInvalidArgument unless bytes is a positive multiple of 65536; kResourceExhausted.
Result<AlignedBuffer> make_probe_buffer(WorkerPool& pool, std::int64_t bytes);

/// Reads the whole buffer once. Errors: kInvalidArgument (pattern, or a buffer that is no multiple of
/// the chunk).
Result<ProbeResult> read_probe(WorkerPool& pool, const KernelTable& kernels, const AlignedBuffer& buffer,
                               const ReadPattern& pattern);

/// Reads every K and V page that the batch's attended tokens touch, whole, by all workers, without
/// interpreting a value: the best walk known, four interleaved streams (K and V of two pages) in steps of
/// 256 bytes with prefetches into L2. Unused slots of a page are read too; the bytes count them.
/// Pages with gaps (strides of larger tensors) are read row by row, without the gaps.
/// Errors: those of validate(kv, shape); kOutOfRange if the batch names more pages than kv has.
Result<ProbeResult> paged_read_probe(WorkerPool& pool, const KernelTable& kernels, const BatchState& batch,
                                     const PagedKv& kv);

}  // namespace pkv
