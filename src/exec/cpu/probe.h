// Read probes: how fast this machine's workers can read memory, as the denominator of every speed.
// Not here: who asks (replay, `pkv doctor`), statistics over repeats.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/aligned_buffer.h"
#include "exec/cpu/kernels.h"
#include "exec/cpu/probe_kernels.h"
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

/// How a worker reads. The default is the fastest that was found on Zen 4 (docs/performance.md, bench/probes.cc).
struct ReadMethod {
  /// Chunks read side by side, in steps of 256 bytes: 1, 2 or 4. With 4, pages are read as K and V of two pages.
  std::int32_t streams = 4;
  ReadPrefetch prefetch = ReadPrefetch::kL2;
  /// How far ahead of its loads a stream prefetches, at least; positive.
  std::int64_t ahead_bytes = 8192;

  friend bool operator==(const ReadMethod&, const ReadMethod&) = default;
};

/// How `read_probe` walks its buffer.
struct ReadPattern {
  /// Bytes of a chunk, a multiple of 256 that divides the buffer; chunks are read in random order. Not set:
  /// in order.
  std::optional<std::int64_t> chunk_bytes = std::nullopt;
  /// Workers that read, 1 to the pool's; all when not set.
  std::optional<std::int32_t> workers = std::nullopt;
  ReadMethod method = {};
};

/// The chunk sizes that `pkv doctor` prints.
inline constexpr std::int64_t kProbeChunkBytes[] = {2048, 4096, 8192, 16384, 32768, 65536};

/// Memory pages that a buffer lies on: what the system gives where huge pages are advised, or 4 KiB ones.
enum class MemoryPages : std::uint8_t { kHuge, kSmall };

/// Memory for `read_probe`: written once by all workers, so that its pages exist and differ.
/// A fair measurement takes at least four times the last-level cache.
/// Errors: kInvalidArgument unless bytes is a positive multiple of 65536; kResourceExhausted.
Result<AlignedBuffer> make_probe_buffer(WorkerPool& pool, std::int64_t bytes, MemoryPages pages = MemoryPages::kHuge);

/// Reads the whole buffer once. Errors: kInvalidArgument (pattern, or a buffer that is no multiple of
/// the chunk).
Result<ProbeResult> read_probe(WorkerPool& pool, const KernelTable& kernels, const AlignedBuffer& buffer,
                               const ReadPattern& pattern);

/// Reads every K and V page that the batch's attended tokens touch, whole, by all workers, without
/// interpreting a value: by default the best walk known, four interleaved streams (K and V of two pages) in
/// steps of 256 bytes with prefetches into L2. Unused slots of a page are read too; the bytes count them.
/// Pages with gaps (strides of larger tensors) are read row by row, without the gaps.
/// Errors: those of validate(kv, shape) and of the method; kOutOfRange if the batch names more pages than kv has.
Result<ProbeResult> paged_read_probe(WorkerPool& pool, const KernelTable& kernels, const BatchState& batch,
                                     const PagedKv& kv, const ReadMethod& method = {});

/// One fork-join of all workers that do nothing, by the caller's clock.
std::int64_t fork_join_probe_ns(WorkerPool& pool);

/// Exponentials of the general kernel, by `workers` workers on values in their L1.
struct ExpResult {
  std::int64_t ns = 0;
  std::int64_t count = 0;
  [[nodiscard]] double exp_per_ns() const {
    return ns == 0 ? 0.0 : static_cast<double>(count) / static_cast<double>(ns);
  }
};
/// Errors: kInvalidArgument (workers).
Result<ExpResult> exp_probe(WorkerPool& pool, const KernelTable& kernels, std::int32_t workers);

}  // namespace pkv
